package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"slipway/crash"
	"slipway/project"
)

// How long refs may take to move once all of a push is there.
const moving = 15 * time.Minute

// receive answers a push.
//
// All pushes bring their objects at the same time. The last bytes of each are
// held back until it has the lock of the repository: git moves no ref before it
// has them. The end of the answer is held back until the moves are told.
func (s *Sources) receive(w http.ResponseWriter, r *http.Request, to project.Project, dir string, user int64) error {
	id := to.ID
	in, err := s.body(w, r)
	if err != nil {
		return err
	}
	rc := http.NewResponseController(w)
	_ = rc.EnableFullDuplex()
	// The process inherits the open lock file, so that the lock is held as long
	// as it lives, whatever becomes of us.
	file, err := os.OpenFile(s.repoLock(id), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	p := &push{s: s, id: id, dir: dir, user: user, file: file, out: held4{w: &flusher{w: w, rc: rc}}}
	// A client that goes away while refs move must not stop that halfway.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(r.Context()))
	defer cancel(nil)
	p.cancel = cancel
	c := s.serving("receive-pack", dir, "", "--stateless-rpc").pulls(to.PullRequests)
	c.files = []*os.File{file}
	cmd := s.git.command(ctx, c)
	cmd.Stderr = &p.errs
	cmd.Stdout = &p.out
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		_ = file.Close()
		return err
	}
	answer(w, "receive-pack-result")
	if err := cmd.Start(); err != nil {
		_ = file.Close()
		return fmt.Errorf("git receive-pack: %w", err)
	}
	err = p.run(ctx, r.Context(), cmd, in)
	if err != nil {
		slog.Warn("push failed", "room", "source", "project", string(id), "error", err)
		return s.ended(w, r, p.out.n, err)
	}
	return nil
}

// push is one push under way.
type push struct {
	s      *Sources
	id     project.ID
	dir    string
	user   int64
	file   *os.File // of the lock
	lock   *lock    // once it is held
	stdin  io.WriteCloser
	out    held4
	errs   tail
	cancel context.CancelCauseFunc
	asked  commands
}

// by is who pushes, and what was said with it.
func (p *push) by() pusher { return pusher{p.user, p.asked.base()} }

// run feeds the process, waits for it, tells what moved and lets the answer
// end. client ends when the client goes away.
func (p *push) run(ctx, client context.Context, cmd *exec.Cmd, in io.Reader) error {
	fed := p.feed(client, in)
	if fed != nil {
		p.cancel(fed)
	} else {
		defer time.AfterFunc(moving, func() { p.cancel(errors.New("git took too long to move the refs")) }).Stop()
	}
	ended := cmd.Wait()
	if p.lock == nil { // it never had all of the push, so no ref moved
		if fed == nil && ended == nil {
			fed = p.out.end()
		}
		_ = p.file.Close()
		return errors.Join(fed, p.failed(ctx, ended))
	}
	defer p.lock.release()
	crash.At("source: git has ended a push")
	if err := p.s.tell(context.WithoutCancel(ctx), p.id, p.dir, p.by(), p.asked.refs()); err != nil {
		p.s.later(p.id)
		return errors.Join(fed, err)
	}
	if ended == nil || clean(ended) {
		p.lock.end() // after a kill the next one looks for what is left
	}
	if fed != nil {
		return fed
	}
	// A client waits for ever for the rest of an answer that ends as if it were
	// whole; git that was killed may have left it anywhere.
	if err := p.failed(ctx, ended); err != nil && (p.out.n == 0 || !clean(ended)) {
		return err
	}
	return p.out.end()
}

func (p *push) failed(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	return call{args: []string{"receive-pack"}}.failed(ctx, err, p.errs.String())
}

// clean tells whether a process ended by itself.
func clean(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.Exited()
}

func isPipe(err error) bool { return errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed) }

// feed gives the body to the process, the last part only under the lock.
func (p *push) feed(client context.Context, in io.Reader) error {
	defer func() { _ = p.stdin.Close() }()
	buf, last := make([]byte, 64<<10), []byte(nil)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			p.asked.add(buf[:n])
			if _, werr := p.stdin.Write(last); werr != nil {
				if !isPipe(werr) {
					return werr
				}
				return p.drain(in) // it has refused and said why
			}
			last = append(last[:0], buf[:n]...)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("the push was cut off: %w", err)
		}
	}
	if len(last) == 0 {
		return nil
	}
	crash.At("source: a push has arrived")
	var err error
	if p.lock, err = p.s.locks.takeFile(client, p.file, p.s.repoLock(p.id), false); err != nil {
		return err
	}
	unclean, err := p.lock.begin(p.by())
	if err == nil && unclean {
		err = sweep(p.dir, oldObjects)
	}
	if err != nil {
		return err
	}
	if _, err = p.stdin.Write(last); isPipe(err) {
		err = nil
	}
	return err
}

// drain reads on, for a while, so that a client that only listens when it has
// sent everything hears the refusal.
func (p *push) drain(in io.Reader) error {
	n, err := io.Copy(io.Discard, io.LimitReader(in, p.s.cfg.MaxPush))
	if err != nil {
		return fmt.Errorf("the push was cut off: %w", err)
	}
	if n == p.s.cfg.MaxPush {
		return errors.New("a refused push went on and on")
	}
	return nil
}

// held4 sends on all but the last four bytes, the end mark of an answer, until
// end.
type held4 struct {
	w    io.Writer
	last []byte
	n    int64
}

func (h *held4) Write(b []byte) (int, error) {
	h.n += int64(len(b))
	h.last = append(h.last, b...)
	if keep := len(h.last) - 4; keep > 0 {
		_, err := h.w.Write(h.last[:keep])
		h.last = append([]byte(nil), h.last[keep:]...)
		if err != nil {
			// The client is gone; what it pushed counts all the same.
			h.w = io.Discard
		}
	}
	return len(b), nil
}

func (h *held4) end() error {
	_, err := h.w.Write(h.last)
	return err
}

// commands reads along the first lines of a push: which refs it names, and the
// options that it has.
type commands struct {
	buf     []byte
	list    []string
	given   []string // -o of git push
	options bool     // they follow
	listed  bool     // the refs are over
	done    bool
}

const maxCommands = 4 << 20

// maxOptions bounds the options of a push.
const maxOptions = 100

func (c *commands) add(b []byte) {
	if c.done {
		return
	}
	c.buf = append(c.buf, b...)
	for len(c.buf) >= 4 && !c.done {
		n, err := strconv.ParseUint(string(c.buf[:4]), 16, 32)
		switch {
		case err == nil && n == 0: // a flush
			c.buf, c.done, c.listed = c.buf[4:], c.listed || !c.options, true
			continue
		case err != nil, n < 4, len(c.list) > maxCommands/64, len(c.given) > maxOptions: // nonsense that git will refuse
			c.done = true
			continue
		case len(c.buf) < int(n):
			return
		}
		c.line(c.buf[4:n])
		c.buf = c.buf[n:]
	}
	if c.done {
		c.buf = nil
	}
}

func (c *commands) line(text []byte) {
	if c.listed {
		c.given = append(c.given, strings.TrimSuffix(string(text), "\n"))
		return
	}
	line, can, _ := bytes.Cut(text, []byte{0})
	c.options = c.options || slices.Contains(strings.Fields(string(can)), "push-options")
	if f := strings.Fields(string(line)); len(f) == 3 && f[1] != zeros {
		c.list = append(c.list, f[2])
	}
}

func (c *commands) refs() []string { return c.list }

// base is the branch that the options name as the one that pull requests go to.
func (c *commands) base() (branch string) {
	for _, o := range c.given {
		if b, ok := strings.CutPrefix(o, "base="); ok && goodRef(heads+b) {
			branch = strings.TrimPrefix(b, heads)
		}
	}
	return branch
}
