package local

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"slipway/crash"
	"slipway/engine"
)

// settleTime is how long a cancelled step may take to be gone.
const settleTime = 10 * time.Second

var errBuildTime = errors.New("the time of the build is over")

// failure is the end of a build for a reason in its source.
type failure struct{ text string }

func (f *failure) Error() string { return f.text }

func failed(format string, a ...any) error { return &failure{fmt.Sprintf(format, a...)} }

// machinery is an error that is not the source's.
type machinery struct{ error }

func (m *machinery) Unwrap() error { return m.error }

// newID makes a name that nothing else has.
func newID() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// building is a build in progress.
type building struct {
	e      *Engine
	id     string
	spec   engine.BuildSpec
	log    *buildLog
	room   *room
	limits *pb.LinuxResources
	texts  texts
	// written are the files of the context that were written since it was read
	// before; nil if that is not known.
	written *written
	args    []string // that the Dockerfile declares
	text    string   // digest of the Dockerfile
	result  string   // digest
}

// Build implements engine.Builder. A build lives in this process: what ends its
// call ends it, and the next call does it again with what the cache has.
func (e *Engine) Build(ctx context.Context, id string, spec engine.BuildSpec) (engine.BuildResult, error) {
	leave, err := e.builder.enter(ctx, id)
	if err != nil {
		return engine.BuildResult{}, fmt.Errorf("build %s: %w", id, err)
	}
	defer leave()
	res, err := e.buildAlone(ctx, id, spec)
	if err != nil {
		return engine.BuildResult{}, fmt.Errorf("build %s: %w", id, err)
	}
	return res, nil
}

// enter lets one call of an id in at a time.
func (b *builder) enter(ctx context.Context, id string) (leave func(), err error) {
	for {
		b.mu.Lock()
		if b.closing || b.e.closing.Load() {
			b.mu.Unlock()
			return nil, errClosed
		}
		other := b.running[id]
		if other == nil {
			mine := make(chan struct{})
			b.running[id] = mine
			b.busy.Add(1)
			b.mu.Unlock()
			return func() {
				b.mu.Lock()
				delete(b.running, id)
				b.mu.Unlock()
				close(mine)
				b.busy.Done()
			}, nil
		}
		b.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (e *Engine) buildAlone(ctx context.Context, id string, spec engine.BuildSpec) (res engine.BuildResult, err error) {
	secrets := spec.Mask
	for _, s := range spec.Secrets {
		secrets = append(secrets[:len(secrets):len(secrets)], s.Value)
	}
	for _, l := range spec.Logins {
		if l.Password != "" {
			secrets = append(secrets[:len(secrets):len(secrets)], []byte(l.Password))
		}
	}
	log, err := openBuildLog(spec.Log, spec.LogMax, secrets)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, log.close()) }()
	mark := e.path("build", "begun", fileName(id))
	if _, serr := os.Stat(mark); serr == nil {
		log.note("the server was restarted: the build begins again, with what the cache has")
	}
	if err := errors.Join(os.MkdirAll(e.path("build", "begun"), 0o700), os.WriteFile(mark, nil, 0o600)); err != nil {
		return res, err
	}
	defer os.Remove(mark)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-e.closed:
			cancel(errClosed)
		case <-ctx.Done():
		}
	}()
	if spec.Timeout > 0 {
		defer time.AfterFunc(spec.Timeout, func() { cancel(errBuildTime) }).Stop()
	}
	b := &building{e: e, id: id, spec: spec, log: log, limits: e.stepLimits(spec.Limits)}
	err = b.do(ctx)
	res.Steps, res.Cached = log.counted()
	res.Used = log.usage()
	res.List, res.Args, res.Text = b.steps(), b.args, b.text
	if cause := context.Cause(ctx); cause != nil && err != nil {
		return b.ended(res, cause)
	}
	if err != nil {
		res.Refused = errdefs.IsUnauthorized(err)
		if res.Failure, err = b.explain(err); err != nil {
			return engine.BuildResult{}, err
		}
		log.note(res.Failure)
		return res, nil
	}
	platform := ""
	if len(spec.Platforms) > 0 {
		platform = spec.Platforms[0]
	}
	if res.Image, err = e.inspect(nsctx(context.WithoutCancel(ctx)), b.result, platform); err != nil {
		return engine.BuildResult{}, err
	}
	log.note(strings.TrimSpace("image " + b.result + " " + strings.Join(append([]string{spec.Name}, spec.Also...), ", ")))
	crash.At("engine: a build has its image")
	return res, nil
}

// ended is the result of a build that was ended from outside.
func (b *building) ended(res engine.BuildResult, cause error) (engine.BuildResult, error) {
	switch {
	case errors.Is(cause, errBuildTime):
		res.Reason = engine.ReasonTimeout
		res.Failure = fmt.Sprintf("the build took longer than the %s that it may take", b.spec.Timeout)
	case errors.Is(cause, engine.ErrDetach), errors.Is(cause, errClosed):
		return engine.BuildResult{}, cause
	default:
		res.Reason, res.Failure = engine.ReasonCancel, "the build was cancelled"
	}
	b.log.note(res.Failure)
	return res, nil
}

// do builds, and holds the result.
func (b *building) do(ctx context.Context) error {
	root, done, err := b.e.openSource(ctx, b.spec.Source)
	if err != nil {
		return b.sourceError(err)
	}
	defer done()
	for _, p := range b.spec.Platforms {
		if _, err := platforms.Parse(p); err != nil {
			return failed("platform %q: %v", p, err)
		}
	}
	name, files, err := b.dockerfile(root)
	if err != nil {
		return err
	}
	tree, err := inContext(root, b.spec)
	if err != nil {
		return err
	}
	defer tree.root.Close()
	ignore, err := tree.ignore()
	if err != nil {
		return err
	}
	b.texts, b.args, b.text = texts{files, ignore}, arguments(files[name]), digest.FromBytes(files[name]).String()
	r, err := b.e.builder.room(b.spec.Workspace)
	if err != nil {
		return &machinery{err}
	}
	defer b.e.builder.leave(r)
	b.room = r
	err = b.solve(ctx, name, tree)
	if s := b.e.builder.steps; s != nil {
		if ctx.Err() != nil && err != nil {
			s.settled(settleTime)
		}
		s.tidied()
	}
	b.e.builder.tidy()
	return err
}

// sourceError tells a source that is not there from a machine that fails.
func (b *building) sourceError(err error) error {
	var f *failure
	if errors.As(err, &f) {
		return err
	}
	return &machinery{fmt.Errorf("the source: %w", err)}
}

// attributes are the frontend's.
func (b *building) attributes(dockerfile string) map[string]string {
	a := map[string]string{"filename": dockerfile, "image-resolve-mode": "local"}
	if b.spec.Target != "" {
		a["target"] = b.spec.Target
	}
	var list []string
	for _, p := range b.spec.Platforms {
		if p != "" {
			list = append(list, p)
		}
	}
	if len(list) > 0 {
		a["platform"] = strings.Join(list, ",")
	}
	if b.spec.NoNetwork {
		a["force-network-mode"] = "none"
	}
	if b.spec.NoCache {
		a["no-cache"] = ""
	}
	for k, v := range b.spec.Args {
		a["build-arg:"+k] = v
	}
	return a
}

// exportAttributes are the exporter's. Layers are not compressed: they are made
// in a moment, and unpacked never, since their snapshots are there.
func (b *building) exportAttributes() map[string]string {
	a := map[string]string{"compression": "uncompressed", "oci-mediatypes": "true"}
	if n, err := reference.ParseNormalizedNamed(b.spec.Name); err == nil {
		a["name"] = reference.TagNameOnly(n).String()
	}
	return a
}
