package pipeline

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/plainfile"
	"slipway/project"
)

// Bounds of a search.
const (
	maxVisits  = 200_000 // entries that are looked at
	maxMatches = 1_000   // files that are told of
	maxSearch  = 4 << 20 // bytes of a file whose content is looked at
	maxReading = 256 << 20
	maxLines   = 100 // of a file
	maxLine    = 1_000
	maxFilter  = 255
)

// Match is a file that a search found.
type Match struct {
	Path  string
	Lines []MatchedLine // those with the text that was looked for
}

// MatchedLine is a line of a file, from 1.
type MatchedLine struct {
	Number int
	Text   string // its first 1000 bytes
}

var errEnough = errors.New("there is enough")

func sortFiles(l []File) {
	slices.SortFunc(l, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
}

// Search finds files by a pattern for their path, in which * and ? stay in one
// folder and ** goes through any number of them, and by a text that is in one of
// their lines. It gives the first thousand, and looks into files of up to 4 MiB.
func (f *Files) Search(ctx context.Context, by access.Actor, id ID, pattern, text string) (list []Match, err error) {
	if _, err := f.p.get(ctx, by, id, access.ExecutionManage); err != nil {
		return nil, err
	}
	var bad project.Invalid
	bad.Text("path_filter", pattern, maxFilter)
	bad.Text("content_filter", text, maxFilter)
	if err := bad.Err(); err != nil {
		return nil, err
	}
	match, err := pathPattern(pattern)
	if err != nil {
		return nil, err
	}
	root, err := f.root(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	visits, left := 0, int64(maxReading)
	err = fs.WalkDir(plainfile.Tree(root), ".", func(name string, d fs.DirEntry, err error) error {
		if visits++; visits > maxVisits || len(list) == maxMatches || left <= 0 {
			return errEnough
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && name == ".":
			return err
		case err != nil:
			return nil // it is gone, or not for us
		case d.IsDir() && d.Name() == ".git":
			return fs.SkipDir
		case !d.Type().IsRegular() || pattern != "" && !match.MatchString(name):
			return nil
		}
		m := Match{Path: strings.ToValidUTF8(name, "\uFFFD")}
		if text != "" {
			lines, n := grep(root, name, text)
			if left -= n; len(lines) == 0 {
				return nil
			}
			m.Lines = lines
		}
		list = append(list, m)
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, fmt.Errorf("search the file system of pipeline %d: %w", id, err)
	}
	return list, nil
}

// pathPattern makes an expression of a pattern for paths.
func pathPattern(pattern string) (*regexp.Regexp, error) {
	var b strings.Builder
	parts := strings.Split(strings.Trim(pattern, "/"), "/")
	for i, p := range parts {
		last := i == len(parts)-1
		switch {
		case p == "**" && last:
			b.WriteString(".*")
			continue
		case p == "**":
			b.WriteString("(?:[^/]+/)*")
			continue
		}
		for _, c := range p {
			switch c {
			case '*':
				b.WriteString("[^/]*")
			case '?':
				b.WriteString("[^/]")
			default:
				b.WriteString(regexp.QuoteMeta(string(c)))
			}
		}
		if !last {
			b.WriteByte('/')
		}
	}
	return regexp.Compile("(?s)^" + b.String() + "$")
}

// grep gives the lines of a file that have a text, and how much it read.
func grep(root *os.Root, name, text string) (list []MatchedLine, read int64) {
	r, err := plainfile.Open(root, name)
	if err != nil {
		return nil, 0
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxSearch+1))
	read = int64(len(b))
	if err != nil || read > maxSearch || bytes.IndexByte(b[:min(len(b), 8000)], 0) >= 0 {
		return nil, read // what has a NUL is no text
	}
	s := bufio.NewScanner(bytes.NewReader(b))
	s.Buffer(nil, maxSearch+1)
	for n := 1; s.Scan() && len(list) < maxLines; n++ {
		if line := s.Text(); strings.Contains(line, text) {
			list = append(list, MatchedLine{n, strings.ToValidUTF8(line[:min(len(line), maxLine)], "\uFFFD")})
		}
	}
	return list, read
}
