package fake

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/engine"
)

// step is what the cache knows of one.
type step struct {
	what string
	at   time.Time
}

// Build implements engine.Builder.
func (e *Engine) Build(ctx context.Context, id string, s engine.BuildSpec) (engine.BuildResult, error) {
	if err := e.call(ctx, "Build", id); err != nil {
		return engine.BuildResult{}, fmt.Errorf("build %s: %w", id, err)
	}
	e.w.mu.Lock()
	e.w.builds[id] = s
	e.w.mu.Unlock()
	log, err := openLog(s.Log, s.LogMax, 0, s.Mask)
	if err != nil {
		return engine.BuildResult{}, fmt.Errorf("build %s: %w", id, err)
	}
	defer log.close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-e.closed:
			cancel(errClosed)
		case <-ctx.Done():
		}
	}()
	if s.Timeout > 0 {
		t := time.AfterFunc(s.Timeout, func() { cancel(errTimeout) })
		defer t.Stop()
	}
	src, err := e.w.source(ctx, s.Source)
	if err != nil {
		return engine.BuildResult{}, fmt.Errorf("build %s: %w", id, err)
	}
	b := &building{w: e.w, id: id, spec: s, src: src, log: log}
	digests, err := b.platforms(ctx)
	res := engine.BuildResult{Steps: b.steps, Cached: b.cached, Used: b.used, List: b.listed(), Args: b.args}
	if cause := context.Cause(ctx); cause != nil {
		switch {
		case errors.Is(cause, errTimeout):
			res.Reason, res.Failure = engine.ReasonTimeout, fmt.Sprintf("the build took longer than %s", s.Timeout)
			return res, nil
		case errors.Is(cause, engine.ErrDetach), errors.Is(cause, errClosed):
			return engine.BuildResult{}, fmt.Errorf("build %s: %w", id, cause)
		}
		res.Reason, res.Failure = engine.ReasonCancel, "the build was cancelled"
		return res, nil
	}
	var bad *failure
	if errors.As(err, &bad) {
		log.line('m', bad.text)
		res.Failure, res.Refused = bad.text, bad.refused
		return res, nil
	}
	if err != nil {
		return engine.BuildResult{}, fmt.Errorf("build %s: %w", id, err)
	}
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	e.w.holds["build/"+id] = digests
	b.give()
	res.Image, err = e.w.inspect(digests, first(s.Platforms))
	return res, err
}

var errTimeout = errors.New("the time is over")

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

// failure is a build that fails for a reason in its source.
type failure struct {
	text    string
	refused bool
}

func (f *failure) Error() string { return f.text }

func failed(format string, a ...any) error { return &failure{text: fmt.Sprintf(format, a...)} }

// source reads all files of a source.
func (w *world) source(ctx context.Context, s engine.Source) (map[string][]byte, error) {
	files := map[string][]byte{}
	if s.Archive != nil {
		r, err := s.Archive(ctx)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		t := tar.NewReader(r)
		for {
			h, err := t.Next()
			if errors.Is(err, io.EOF) {
				return files, nil
			}
			if err != nil {
				return nil, fmt.Errorf("the archive: %w: %w", errdefs.ErrInvalidArgument, err)
			}
			if h.Typeflag == tar.TypeReg {
				if files[rel(h.Name)], err = io.ReadAll(t); err != nil {
					return nil, fmt.Errorf("the archive: %w: %w", errdefs.ErrInvalidArgument, err)
				}
			}
		}
	}
	root, err := w.root(s.Volume)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return files, fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files[p], err = root.ReadFile(p)
		return err
	})
}

// building is a build in progress.
type building struct {
	w             *world
	id            string
	spec          engine.BuildSpec
	src           map[string][]byte
	log           *logWriter
	steps, cached int
	used          engine.Usage
	list          []engine.BuildStep
	args          []string
	n             int
	made          []madeStep
}

func (b *building) platforms(ctx context.Context) (string, error) {
	list := b.spec.Platforms
	if len(list) == 0 {
		list = []string{""}
	}
	var idx ocispec.Index
	for _, p := range list {
		d, err := b.image(ctx, platform(p))
		if err != nil || len(list) == 1 {
			return d, err
		}
		system, arch, _ := strings.Cut(platform(p), "/")
		arch, variant, _ := strings.Cut(arch, "/")
		b.w.mu.Lock()
		size := int64(len(b.w.blobs[d].body))
		b.w.mu.Unlock()
		idx.Manifests = append(idx.Manifests, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(d), Size: size,
			Platform: &ocispec.Platform{OS: system, Architecture: arch, Variant: variant},
		})
	}
	idx.Versioned, idx.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageIndex
	body, err := json.Marshal(idx)
	if err != nil {
		return "", err
	}
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	return b.w.putManifest(idx.MediaType, body)
}

func (b *building) dockerfile() ([]byte, error) {
	name := rel(b.spec.Dockerfile)
	if b.spec.Dockerfile == "" {
		name = path.Join(rel(b.spec.Context), "Dockerfile")
	}
	if f, ok := b.src[name]; ok {
		return f, nil
	}
	var alike []string
	for n := range b.src {
		if strings.EqualFold(n, name) {
			alike = append(alike, n)
		}
	}
	if len(alike) == 1 {
		b.log.line('m', fmt.Sprintf("there is no %s, %s is taken", name, alike[0]))
		return b.src[alike[0]], nil
	}
	return nil, failed("%s: no such file in the source", name)
}

// stage is the image that the lines have made so far.
type stage struct {
	name string
	cfg  config
	key  string
	fs   *proc // its files, as the words of RUN see them
}

// image builds for one platform.
func (b *building) image(ctx context.Context, plat string) (string, error) {
	text, err := b.dockerfile()
	if err != nil {
		return "", err
	}
	var stages []*stage
	var st *stage
	args := map[string]string{}
	for _, l := range lines(string(text)) {
		word, rest, _ := strings.Cut(l, " ")
		word, rest = strings.ToUpper(word), strings.TrimSpace(rest)
		if word == "ARG" {
			k, v, _ := strings.Cut(rest, "=")
			if given, ok := b.spec.Args[k]; ok {
				v = given
			}
			args[k] = v
			b.args = append(b.args, k)
			continue
		}
		if word == "FROM" {
			if st != nil && b.spec.Target != "" && st.name == b.spec.Target {
				break
			}
			if st, err = b.from(ctx, os.Expand(rest, func(k string) string { return args[k] }), plat, stages); err != nil {
				return "", err
			}
			stages = append(stages, st)
			b.list = append(b.list, engine.BuildStep{Stage: st.name, Index: 1, Text: l, Done: true})
			continue
		}
		if st == nil {
			return "", failed("the first line of a Dockerfile must be FROM")
		}
		if err := b.line(ctx, st, word, rest, l, args); err != nil {
			return "", err
		}
	}
	if st == nil {
		return "", failed("the Dockerfile is empty")
	}
	if b.spec.Target != "" && st.name != b.spec.Target {
		return "", failed("target stage %q is not in the Dockerfile", b.spec.Target)
	}
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	return b.w.make(st.cfg, st.key)
}

// listed are the steps that were begun, with how many there are in each stage.
func (b *building) listed() []engine.BuildStep {
	for i := range b.list {
		for _, o := range b.list {
			if o.Stage == b.list[i].Stage {
				b.list[i].Of = max(b.list[i].Of, o.Index)
			}
		}
	}
	return b.list
}

// lines joins continued ones and leaves out comments.
func lines(text string) (out []string) {
	more := ""
	for l := range strings.SplitSeq(text, "\n") {
		l = strings.TrimSpace(l)
		if l == "" || strings.HasPrefix(l, "#") {
			continue
		}
		if head, ok := strings.CutSuffix(l, "\\"); ok {
			more += head + " "
			continue
		}
		out = append(out, more+l)
		more = ""
	}
	return out
}

func (b *building) from(ctx context.Context, rest, plat string, before []*stage) (*stage, error) {
	f := strings.Fields(rest)
	for len(f) > 0 && strings.HasPrefix(f[0], "--") {
		f = f[1:]
	}
	if len(f) == 0 {
		return nil, failed("FROM needs the name of an image")
	}
	st := &stage{key: "from " + f[0] + " for " + plat, fs: &proc{w: b.w, layer: map[string][]byte{}}}
	if len(f) == 3 {
		st.name = f[2]
	}
	for _, p := range before {
		if p.name != "" && p.name == f[0] {
			st.cfg, st.key = p.cfg, p.key
			return st, nil
		}
	}
	if f[0] == "scratch" {
		st.cfg = newConfig(nil)
	} else {
		d, err := b.base(ctx, f[0])
		if err != nil {
			return nil, err
		}
		b.w.mu.Lock()
		st.cfg, err = b.w.config(d, plat)
		b.w.mu.Unlock()
		if err != nil {
			return nil, failed("FROM %s: %s", f[0], err)
		}
		st.key = "from " + d
	}
	system, arch, _ := strings.Cut(plat, "/")
	arch, variant, _ := strings.Cut(arch, "/")
	st.cfg.OS, st.cfg.Architecture, st.cfg.Variant = system, arch, variant
	return st, nil
}

// base finds the image that a stage begins with.
func (b *building) base(ctx context.Context, ref string) (string, error) {
	if b.spec.Lookup != nil {
		d, err := b.spec.Lookup(ctx, complete(ref))
		if err == nil {
			return d, nil
		}
		if errors.Is(err, engine.ErrNoImage) {
			return "", failed("FROM %s: %s", ref, engine.ErrNoImage)
		}
		if !errdefs.IsNotFound(err) {
			return "", fmt.Errorf("looking for %s: %w", ref, err)
		}
	}
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	d, err := b.w.remote(complete(ref), b.spec.Logins)
	if err != nil {
		return "", &failure{fmt.Sprintf("FROM %s: %s", ref, err), errdefs.IsUnauthorized(err)}
	}
	return d, nil
}

// complete makes a reference a full one.
func complete(ref string) string {
	host, _, ok := strings.Cut(ref, "/")
	switch {
	case !ok:
		ref = "docker.io/library/" + ref
	case !strings.ContainsAny(host, ".:") && host != "localhost":
		ref = "docker.io/" + ref
	}
	if i := strings.LastIndex(ref, "/"); !strings.Contains(ref[i:], ":") && !strings.Contains(ref, "@") {
		ref += ":latest"
	}
	return ref
}
