package source

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// notes says what of the commit a work tree does not get.
func (c *checkout) notes(ctx context.Context) ([]string, error) {
	list, err := c.s.git.objects(ctx, c.repo, maxCommit, c.spec.Revision+"^{commit}")
	if err != nil {
		return nil, err
	}
	if len(list) != 1 || list[0].kind != "commit" {
		return nil, fmt.Errorf("commit: %w", errdefs.ErrNotFound)
	}
	where, of := "detached", ""
	if c.spec.Branch != "" {
		where = c.spec.Branch
	}
	lines := []string{fmt.Sprintf("Checked out %s (%s): %s", c.spec.Revision, where, parseCommit("", list[0].data).Subject)}
	if c.sub != nil {
		of = "Submodule " + c.sub.path + ": "
		lines = []string{fmt.Sprintf("%schecked out %s of %s", of, c.spec.Revision, c.sub.where.name)}
	}
	var attributes []string
	for _, e := range c.index.entries {
		if e.path == ".gitattributes" || strings.HasSuffix(e.path, "/.gitattributes") {
			attributes = append(attributes, e.hex())
		}
	}
	if len(attributes) > 0 {
		list, err := c.s.git.objects(ctx, c.repo, maxCommit, attributes...)
		if err != nil {
			return nil, err
		}
		for _, o := range list {
			if bytes.Contains(o.data, []byte("filter=lfs")) {
				return append(lines, of+"Git LFS is not fetched: files that .gitattributes gives to it are pointers only"), nil
			}
		}
	}
	return lines, nil
}

func (c *checkout) say(lines []string) {
	if c.spec.Out == nil {
		return
	}
	for _, l := range lines {
		c.spec.Out(l)
	}
}
