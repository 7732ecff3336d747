package fake

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"slipway/engine"
)

// ending is why a container has ended other than by itself; it is the cause of
// its context.
type ending struct {
	code, signal int
	oom          bool
	reason       engine.Reason
	message      string
}

func (e *ending) Error() string { return fmt.Sprintf("ended with code %d", e.code) }

// proc is a container: that of a run or of an instance.
type proc struct {
	w     *world
	id    string
	owner engine.Owner
	run   *engine.RunSpec

	argv   []string
	env    []string
	dir    string
	user   string
	mounts []engine.Mount
	stays  bool // a service: it goes on when its words are used up
	layer  map[string][]byte
	log    *logWriter

	ctx     context.Context
	end     context.CancelCauseFunc
	mu      sync.Mutex
	deaf    bool // ignores the stop signal
	reason  engine.Reason
	started time.Time

	done chan struct{}
	exit engine.Exit // when done
	err  error       // when done: the machinery failed
}

// What every container and every step of a build has used.
const (
	fakeMemory = 1 << 20
	fakeCPU    = time.Millisecond
)

// ended tells if it has.
func (p *proc) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill sends the stop signal and, after grace, SIGKILL.
func (p *proc) kill(grace time.Duration, why engine.Reason) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reason == engine.ReasonNone {
		p.reason = why
	}
	if !p.deaf {
		p.end(&ending{code: 143, signal: 15, reason: p.reason})
		return
	}
	time.AfterFunc(grace, func() { p.end(&ending{code: 137, signal: 9, reason: why}) })
}

// launch starts it. w.mu is held.
func (w *world) launch(p *proc, cfg config, files []engine.File) {
	p.ctx, p.end = context.WithCancelCause(context.Background())
	p.done = make(chan struct{})
	p.started = time.Now()
	p.layer = map[string][]byte{}
	for _, f := range files {
		p.layer[path.Clean(f.Path)] = f.Content
	}
	if p.run != nil && p.run.Output != "" {
		p.layer[path.Clean(p.run.Output)] = nil
	}
	p.env = append(slices.Clone(cfg.Config.Env), p.env...)
	if p.dir == "" {
		p.dir = cfg.Config.WorkingDir
	}
	if p.dir == "" {
		p.dir = "/"
	}
	if p.user == "" {
		p.user = cfg.Config.User
	}
	w.procs.Add(1)
	go func() {
		defer w.procs.Done()
		code, err := p.main()
		p.finish(code, err)
	}()
}

// main plays the words.
func (p *proc) main() (int, error) {
	s := &shell{
		w: p.w, id: p.id, env: p.env, dir: p.dir, user: p.user, fs: p, out: p.log,
		deaf: func() { p.mu.Lock(); p.deaf = true; p.mu.Unlock() }, stays: p.stays,
	}
	code, err := s.exec(p.ctx, p.argv)
	if err == nil && p.stays && !s.exited && code != 127 {
		<-p.ctx.Done()
	}
	return code, err
}

func (p *proc) finish(code int, err error) {
	p.mu.Lock()
	x := engine.Exit{Code: code, Reason: p.reason, Started: p.started}
	p.mu.Unlock()
	var how *ending
	if errors.As(err, &how) || errors.As(context.Cause(p.ctx), &how) {
		x = engine.Exit{Code: how.code, Signal: how.signal, OOM: how.oom, Reason: how.reason, Message: how.message, Started: p.started}
		err = nil
	} else if code == 127 {
		x.Message = fmt.Sprintf("%s: no such program in the image", strings.Join(p.argv[:min(1, len(p.argv))], ""))
	}
	if p.run != nil && p.run.Output != "" {
		p.mu.Lock()
		name := path.Clean(p.run.Output)
		x.Output = string(p.layer[name][:min(len(p.layer[name]), engine.MaxOutput)])
		delete(p.layer, name) // no part of its file system
		p.mu.Unlock()
	}
	if p.run != nil && p.run.Export != nil && err == nil {
		err = p.export(*p.run.Export)
	}
	p.log.close()
	x.Ended = time.Now()
	x.Used = engine.Usage{Memory: fakeMemory, CPU: fakeCPU}
	p.end(nil)
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.exit, p.err = x, err
	close(p.done) // first: who is told looks at it
	if p.run == nil {
		p.w.notify(p.owner)
	} else if err != nil {
		delete(p.w.runs, p.id) // not ended: never was
	}
}

// export writes the container's own files as a tar, whole or not at all.
func (p *proc) export(to engine.VolumePath) error {
	root, err := p.w.root(to.Volume)
	if err != nil {
		return err
	}
	defer root.Close()
	name := rel(to.Path)
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return fmt.Errorf("exporting: %w", err)
	}
	f, err := root.Create(name + ".new")
	if err != nil {
		return fmt.Errorf("exporting: %w", err)
	}
	t := tar.NewWriter(f)
	for _, n := range slices.Sorted(maps.Keys(p.layer)) {
		b := p.layer[n]
		err = errors.Join(err, t.WriteHeader(&tar.Header{Name: rel(n), Mode: 0o644, Size: int64(len(b))}))
		_, werr := t.Write(b)
		err = errors.Join(err, werr)
	}
	if err = errors.Join(err, t.Close(), f.Close()); err != nil {
		return fmt.Errorf("exporting: %w", err)
	}
	return root.Rename(name+".new", name)
}

// find tells where a path of the container is: in a volume, or in its layer.
func (p *proc) find(name string) (*os.Root, string, bool) {
	best := -1
	for i, m := range p.mounts {
		t := path.Clean(m.Target)
		if (name == t || strings.HasPrefix(name, strings.TrimSuffix(t, "/")+"/")) && (best < 0 || len(t) > len(path.Clean(p.mounts[best].Target))) {
			best = i
		}
	}
	if best < 0 {
		return nil, "", false
	}
	m := p.mounts[best]
	root, err := p.w.root(m.Volume)
	if err != nil {
		return nil, "", false
	}
	return root, path.Join(rel(m.Path), strings.TrimPrefix(name, path.Clean(m.Target))), m.ReadOnly
}

func (p *proc) read(name string) ([]byte, error) {
	root, in, _ := p.find(name)
	if root == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		if b, ok := p.layer[name]; ok {
			return b, nil
		}
		return nil, fmt.Errorf("%s: %w", name, os.ErrNotExist)
	}
	defer root.Close()
	return root.ReadFile(in)
}

func (p *proc) write(name string, b []byte, more bool) error {
	root, in, ro := p.find(name)
	if root == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		if more {
			b = append(slices.Clone(p.layer[name]), b...)
		}
		p.layer[name] = b
		return nil
	}
	defer root.Close()
	if ro {
		return fmt.Errorf("%s: Read-only file system", name)
	}
	flag := os.O_CREATE | os.O_WRONLY | os.O_TRUNC
	if more {
		flag = os.O_CREATE | os.O_WRONLY | os.O_APPEND
	}
	f, err := root.OpenFile(in, flag, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

func (p *proc) mkdir(name string) error {
	root, in, ro := p.find(name)
	if root == nil {
		return nil
	}
	defer root.Close()
	if ro {
		return fmt.Errorf("%s: Read-only file system", name)
	}
	return root.MkdirAll(in, 0o755)
}

func (p *proc) remove(name string) error {
	root, in, ro := p.find(name)
	if root == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.layer, name)
		return nil
	}
	defer root.Close()
	if ro {
		return fmt.Errorf("%s: Read-only file system", name)
	}
	return root.RemoveAll(in)
}

func (p *proc) stat(name string) (dir bool, err error) {
	root, in, _ := p.find(name)
	if root == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		for n := range p.layer {
			if strings.HasPrefix(n, strings.TrimSuffix(name, "/")+"/") {
				return true, nil
			}
		}
		if _, ok := p.layer[name]; ok {
			return false, nil
		}
		return false, os.ErrNotExist
	}
	defer root.Close()
	st, err := root.Stat(in)
	if err != nil {
		return false, err
	}
	return st.IsDir(), nil
}

// argv is what is started: the image's words where the spec has none.
func argv(entrypoint, command []string, cfg config) []string {
	switch {
	case len(entrypoint) > 0:
		return append(slices.Clone(entrypoint), command...)
	case command != nil:
		return append(slices.Clone(cfg.Config.Entrypoint), command...)
	}
	return append(slices.Clone(cfg.Config.Entrypoint), cfg.Config.Cmd...)
}

// Run implements engine.Runner.
func (e *Engine) Run(ctx context.Context, id string, spec engine.RunSpec) (engine.Exit, error) {
	if err := e.call(ctx, "Run", id); err != nil {
		return engine.Exit{}, fmt.Errorf("run %s: %w", id, err)
	}
	p, err := e.attach(ctx, id, spec)
	if err != nil || p == nil {
		return engine.Exit{Code: -1, Reason: engine.ReasonCancel, Message: "cancelled before it was started"}, err
	}
	select {
	case <-p.done:
	case <-e.closed:
		return engine.Exit{}, fmt.Errorf("run %s: %w", id, errClosed)
	case <-ctx.Done():
		if detached(ctx) {
			return engine.Exit{}, fmt.Errorf("run %s: %w", id, engine.ErrDetach)
		}
		p.kill(spec.Grace, engine.ReasonCancel)
		<-p.done
	}
	if p.err != nil {
		return engine.Exit{}, fmt.Errorf("run %s: %w", id, p.err)
	}
	return p.exit, nil
}

// attach gives the run of that id, started if it was not there; nil if there is
// none and ctx has ended.
func (e *Engine) attach(ctx context.Context, id string, spec engine.RunSpec) (*proc, error) {
	w := e.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.runs[id]; p != nil {
		return p, nil
	}
	if ctx.Err() != nil {
		if detached(ctx) {
			return nil, fmt.Errorf("run %s: %w", id, engine.ErrDetach)
		}
		return nil, nil
	}
	cfg, err := w.config(spec.Image, spec.Platform)
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", id, err)
	}
	if err := w.prepare(spec.Mounts); err != nil {
		return nil, fmt.Errorf("run %s: %w", id, err)
	}
	log, err := openLog(spec.Log, spec.LogMax, 0, spec.Mask)
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", id, err)
	}
	p := &proc{
		w: w, id: id, owner: spec.Owner, run: &spec, argv: argv(spec.Entrypoint, spec.Command, cfg),
		env: spec.Env, dir: spec.Dir, user: spec.User, mounts: spec.Mounts, log: log,
	}
	w.runs[id] = p
	w.launch(p, cfg, spec.Files)
	if spec.Timeout > 0 {
		t := time.AfterFunc(spec.Timeout, func() { p.kill(spec.Grace, engine.ReasonTimeout) })
		context.AfterFunc(p.ctx, func() { t.Stop() })
	}
	return p, nil
}

// prepare makes the places of the mounts.
func (w *world) prepare(mounts []engine.Mount) error {
	for _, m := range mounts {
		root, err := w.root(m.Volume)
		if err != nil {
			return err
		}
		if _, serr := root.Stat(rel(m.Path)); serr != nil {
			err = root.MkdirAll(rel(m.Path), 0o755)
		}
		if err = errors.Join(err, root.Close()); err != nil {
			return fmt.Errorf("mount %s:%s: %w", m.Volume, m.Path, err)
		}
	}
	return nil
}

// Forget implements engine.Runner.
func (e *Engine) Forget(ctx context.Context, id string) error {
	if err := e.call(ctx, "Forget", id); err != nil {
		return fmt.Errorf("forget %s: %w", id, err)
	}
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	if p := e.w.runs[id]; p != nil {
		if !p.ended() {
			return fmt.Errorf("forget %s: it still runs: %w", id, errdefs.ErrFailedPrecondition)
		}
		delete(e.w.runs, id)
	}
	delete(e.w.gates, id)
	return nil
}

// Exec implements engine.Execer.
func (e *Engine) Exec(ctx context.Context, id string, spec engine.ExecSpec) (int, error) {
	if err := e.call(ctx, "Exec", id); err != nil {
		return 0, fmt.Errorf("exec in %s: %w", id, err)
	}
	p := e.proc(id)
	if p == nil || p.ended() {
		return 0, fmt.Errorf("exec in %s: it does not run: %w", id, errdefs.ErrNotFound)
	}
	dir, user := spec.Dir, spec.User
	if dir == "" {
		dir = p.dir
	}
	if user == "" {
		user = p.user
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(p.ctx, func() { cancel(context.Cause(p.ctx)) })
	defer stop()
	s := &shell{
		w: e.w, id: id, env: append(slices.Clone(p.env), spec.Env...), dir: dir, user: user, fs: p,
		in: spec.Stdin, out: streams{spec.Stdout, spec.Stderr},
	}
	code, err := s.exec(ctx, spec.Command)
	if err != nil && ctx.Err() != nil {
		return 0, fmt.Errorf("exec in %s: %w", id, context.Cause(ctx))
	}
	return code, err
}

// streams are the outputs of an Exec.
type streams struct{ stdout, stderr io.Writer }

func (s streams) line(stream byte, text string) {
	w := s.stdout
	if stream == 'e' {
		w = s.stderr
	}
	if w != nil {
		_, _ = io.WriteString(w, text+"\n")
	}
}

// Stats implements engine.Stater.
func (e *Engine) Stats(ctx context.Context, id string) (engine.Stats, error) {
	if err := e.call(ctx, "Stats", id); err != nil {
		return engine.Stats{}, err
	}
	p := e.proc(id)
	if p == nil || p.ended() {
		return engine.Stats{}, fmt.Errorf("stats of %s: it does not run: %w", id, errdefs.ErrNotFound)
	}
	now := time.Now()
	return engine.Stats{Memory: 1 << 20, CPU: now.Sub(p.started) / 100, Pids: 1, ReadAt: now}, nil
}

// rel makes a path of a container or a volume one below a root.
func rel(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+filepath.ToSlash(p)), "/")
	if p == "" {
		return "."
	}
	return p
}
