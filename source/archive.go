package source

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/project"
)

// Archive gives the files of a commit below dir as a tar, exactly as a
// checkout would have them; their names are relative to dir. A linked project
// fetches the commit first. A failure after the beginning is an error of Read.
func (s *Sources) Archive(ctx context.Context, id project.ID, revision, dir string) (io.ReadCloser, error) {
	if !isHash(revision) {
		return nil, fmt.Errorf("revision %q is not a full hash: %w", revision, errdefs.ErrInvalidArgument)
	}
	dir, err := cleanPath(dir)
	if err != nil {
		return nil, err
	}
	repo, origin, err := s.objectsOf(ctx, id, revision, 1)
	if err != nil {
		return nil, fmt.Errorf("archive of %s: %w", revision, err)
	}
	if dir != "" {
		list, err := s.git.objects(ctx, repo, 1<<62, revision+"^{commit}")
		if err == nil && (len(list) != 1 || list[0].kind != "commit") {
			err = fmt.Errorf("revision %q: %w", revision, errdefs.ErrNotFound)
		}
		if err == nil {
			err = s.isDir(ctx, repo, revision, dir)
		}
		if err != nil {
			return nil, err
		}
	}
	bad := func() {}
	if origin != "" {
		// A mirror that cannot be read is a cache gone bad: the next one who
		// asks gets a new one.
		bad = func() {
			if err := s.forget(context.WithoutCancel(ctx), id); err != nil {
				slog.Error("cannot remove a bad mirror", "room", "source", "project", string(id), "error", err)
			}
		}
	}
	return s.stream(ctx, repo, revision, dir, bad)
}

// isDir fails with errdefs.ErrNotFound unless the commit has that folder.
func (s *Sources) isDir(ctx context.Context, repo, revision, dir string) error {
	e, err := s.lsTree(ctx, repo, revision, dir, false)
	if err != nil {
		return err
	}
	if len(e) != 1 || e[0].kind != "tree" {
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("the commit has no folder %q", dir))
	}
	return nil
}

func (s *Sources) stream(ctx context.Context, repo, revision, dir string, bad func()) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	args := []string{"archive", "--format=tar", revision}
	if dir != "" {
		args = append(args, "--", dir)
	}
	c := call{repo: repo, args: args, env: []string{"GIT_LITERAL_PATHSPECS=1"}}
	cmd := s.git.command(ctx, c)
	var errs tail
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("git archive: %w", err)
	}
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := retar(w, bufio.NewReaderSize(out, 256<<10), dir)
		if errors.Is(err, io.ErrClosedPipe) {
			cancel(err) // the reader has had enough
		} else if err != nil {
			_, _ = io.Copy(io.Discard, out) // git is to say itself what is wrong
		}
		if ended := cmd.Wait(); ended != nil && !errors.Is(err, io.ErrClosedPipe) {
			err = c.failed(ctx, ended, errs.String())
			if context.Cause(ctx) == nil {
				bad()
			}
		}
		_ = w.CloseWithError(err)
	}()
	return closer{r, func() error {
		_ = r.Close()
		cancel(errors.New("the archive was not read to its end"))
		<-done
		return nil
	}}, nil
}

// retar passes a tar of git on without what is git's own in it: the header
// with the commit, and the folders above dir.
func retar(w io.Writer, r io.Reader, dir string) error {
	in, buf := tar.NewReader(r), bufio.NewWriterSize(w, 256<<10)
	out := tar.NewWriter(buf)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if dir != "" {
			name, ok := strings.CutPrefix(h.Name, dir+"/")
			if !ok || name == "" {
				continue
			}
			h.Name = name
		}
		n := &tar.Header{
			Typeflag: h.Typeflag, Name: h.Name, Linkname: h.Linkname, Size: h.Size, Mode: h.Mode,
			ModTime: h.ModTime,
		}
		if err := out.WriteHeader(n); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
	// What follows the end mark is read as well, or git would see a closed pipe.
	_, err := io.Copy(io.Discard, r)
	return errors.Join(err, out.Close(), buf.Flush())
}

// cleanPath gives a path inside a repository without slashes around it; ""
// is the root.
func cleanPath(p string) (string, error) {
	p = strings.Trim(p, "/")
	if p == "" || p == "." {
		return "", nil
	}
	p = path.Clean(p)
	if !goodPath(p) || strings.ContainsAny(p, "\n\r") {
		var bad project.Invalid
		bad.Add("path", "format", "is not a path inside the repository")
		return "", bad.Err()
	}
	return p, nil
}
