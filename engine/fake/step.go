package fake

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"slipway/engine"
)

// line does one line of a stage. Steps that make layers are counted and cached.
func (b *building) line(ctx context.Context, st *stage, word, rest, whole string, args map[string]string) error {
	c := &st.cfg.Config
	switch word {
	case "ENV":
		k, v, ok := strings.Cut(rest, "=")
		if !ok {
			k, v, _ = strings.Cut(rest, " ")
		}
		c.Env = append(slices.Clone(c.Env), k+"="+strings.Trim(v, `"`))
	case "USER":
		c.User = rest
	case "CMD":
		c.Cmd = command(rest)
	case "ENTRYPOINT":
		c.Entrypoint = command(rest)
	case "STOPSIGNAL":
		c.StopSignal = rest
	case "LABEL":
		k, v, _ := strings.Cut(rest, "=")
		c.Labels = mapWith(c.Labels, k, strings.Trim(v, `"`))
	case "EXPOSE":
		if !strings.Contains(rest, "/") {
			rest += "/tcp"
		}
		c.ExposedPorts = mapWith(c.ExposedPorts, rest, struct{}{})
	case "VOLUME":
		c.Volumes = mapWith(c.Volumes, strings.Trim(rest, `[]"`), struct{}{})
	case "WORKDIR":
		c.WorkingDir = path.Join("/", c.WorkingDir, rest)
		if path.IsAbs(rest) {
			c.WorkingDir = path.Clean(rest)
		}
	case "RUN", "COPY", "ADD":
		return b.step(ctx, st, word, rest, whole, args)
	default:
		return failed("unknown instruction %s", word)
	}
	return nil
}

func mapWith[V any](m map[string]V, k string, v V) map[string]V {
	out := map[string]V{k: v}
	for k, v := range m {
		if _, ok := out[k]; !ok {
			out[k] = v
		}
	}
	return out
}

func command(rest string) []string {
	var list []string
	if json.Unmarshal([]byte(rest), &list) == nil {
		return list
	}
	return []string{"/bin/sh", "-c", rest}
}

func (b *building) step(ctx context.Context, st *stage, word, rest, whole string, args map[string]string) error {
	b.steps++
	b.n++
	key := st.key + "\n" + whole
	var copied map[string][]byte
	if word != "RUN" {
		var err error
		if copied, err = b.copied(rest); err != nil {
			return err
		}
		for _, n := range slices.Sorted(maps.Keys(copied)) {
			key += "\n" + n + " " + digest.FromBytes(copied[n]).String()
		}
	} else {
		for _, k := range slices.Sorted(maps.Keys(args)) {
			if strings.Contains(rest, k) {
				key += "\n" + k + "=" + args[k]
			}
		}
	}
	key = digest.FromString(key).String()
	b.log.line('o', fmt.Sprintf("#%d %s", b.n, whole))
	b.list = append(b.list, engine.BuildStep{Stage: st.name, Index: b.list[len(b.list)-1].Index + 1, Text: whole, After: []int{len(b.list) - 1}, Copies: word != "RUN"})
	one := &b.list[len(b.list)-1]
	hit := b.cachedStep(key)
	for n, f := range copied {
		st.fs.layer[n] = f
	}
	if hit && !b.spec.NoCache {
		b.cached++
		one.Cached, one.Copies = true, false
		b.log.line('o', fmt.Sprintf("#%d CACHED", b.n))
	} else {
		if word == "RUN" {
			if err := b.run(ctx, st, rest, args); err != nil {
				return err
			}
		}
		b.log.line('o', fmt.Sprintf("#%d DONE 0.0s", b.n))
	}
	one.Done = true
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	b.w.keep(b.spec.Workspace, b.spec.Cache.Owner, key, whole)
	b.made = append(b.made, madeStep{key, whole, st.name})
	st.key = key
	return nil
}

// madeStep is a step of a build that came to its end.
type madeStep struct{ key, what, stage string }

// cachedStep tells whether the build need not do a step.
func (b *building) cachedStep(key string) bool {
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	c, all := b.spec.Cache, b.w.caches[b.spec.Workspace]
	_, own := all[c.Owner][key]
	_, given := all[c.Scope][key]
	return own || given && c.Take && c.Scope != ""
}

// give hands the steps of a build over to its scope. w.mu is held.
func (b *building) give() {
	c := b.spec.Cache
	for _, s := range b.made {
		if c.Scope != "" && (c.Give == engine.GiveAll || c.Give == engine.GiveImage && s.stage == b.made[len(b.made)-1].stage) {
			b.w.keep(b.spec.Workspace, c.Scope, s.key, s.what)
		}
	}
}

// keep puts a step into the cache. w.mu is held.
func (w *world) keep(workspace string, owner engine.Owner, key, what string) {
	if w.caches[workspace] == nil {
		w.caches[workspace] = map[engine.Owner]map[string]step{}
	}
	if w.caches[workspace][owner] == nil {
		w.caches[workspace][owner] = map[string]step{}
	}
	w.caches[workspace][owner][key] = step{what, time.Now()}
}

// copied gives the files that a COPY or ADD brings.
func (b *building) copied(rest string) (map[string][]byte, error) {
	f := strings.Fields(rest)
	other := false
	for len(f) > 0 && strings.HasPrefix(f[0], "--") {
		other = other || strings.HasPrefix(f[0], "--from=")
		f = f[1:]
	}
	out := map[string][]byte{}
	if other || len(f) < 2 {
		return out, nil
	}
	to := f[len(f)-1]
	for _, n := range f[:len(f)-1] {
		from := path.Join(rel(b.spec.Context), rel(n))
		hit := false
		for name, body := range b.src {
			inner, below := strings.CutPrefix(name, strings.TrimSuffix(from, "/")+"/")
			switch {
			case from == ".":
				hit, out[path.Join("/", to, name)] = true, body
			case below:
				hit, out[path.Join("/", to, inner)] = true, body
			case name == from && strings.HasSuffix(to, "/"):
				hit, out[path.Join("/", to, path.Base(name))] = true, body
			case name == from:
				hit, out[path.Join("/", to)] = true, body
			}
		}
		if !hit && from != "." {
			return nil, failed("COPY %s: %q: not found in the build context", rest, n)
		}
	}
	return out, nil
}

func (b *building) run(ctx context.Context, st *stage, rest string, args map[string]string) error {
	for strings.HasPrefix(rest, "--") {
		_, after, ok := strings.Cut(rest, " ")
		if !ok {
			break
		}
		rest = strings.TrimSpace(after)
	}
	for _, s := range b.spec.Secrets {
		st.fs.layer["/run/secrets/"+s.ID] = s.Value
	}
	env := slices.Clone(st.cfg.Config.Env)
	for k, v := range args {
		env = append(env, k+"="+v)
	}
	sh := &shell{w: b.w, id: b.id, env: env, dir: st.cfg.Config.WorkingDir, user: st.cfg.Config.User, fs: st.fs, out: b.log}
	code, err := sh.exec(ctx, command(rest))
	b.used.CPU += fakeCPU
	b.used.Memory = fakeMemory
	for _, s := range b.spec.Secrets {
		delete(st.fs.layer, "/run/secrets/"+s.ID)
	}
	if err != nil {
		return err
	}
	if code != 0 {
		return failed("step %d, RUN %s: exit code %d", b.n, rest, code)
	}
	return nil
}

// CacheUsage implements engine.Cacher.
func (e *Engine) CacheUsage(ctx context.Context, workspace string) ([]engine.CacheRecord, error) {
	if err := e.call(ctx, "CacheUsage", workspace); err != nil {
		return nil, err
	}
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	var out []engine.CacheRecord
	for _, of := range e.w.caches[workspace] {
		for key, s := range of {
			out = append(out, engine.CacheRecord{ID: key, What: s.what, Size: int64(len(s.what)), Created: s.at, LastUsed: s.at})
		}
	}
	slices.SortFunc(out, func(a, b engine.CacheRecord) int { return a.Created.Compare(b.Created) })
	return out, nil
}

// ClearCache implements engine.Cacher.
func (e *Engine) ClearCache(ctx context.Context, workspace string, owner engine.Owner) (int64, error) {
	if err := e.call(ctx, "ClearCache", workspace+" "+string(owner)); err != nil {
		return 0, err
	}
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	var n int64
	for o, of := range e.w.caches[workspace] {
		if owner != "" && o != owner {
			continue
		}
		for _, s := range of {
			n += int64(len(s.what))
		}
		delete(e.w.caches[workspace], o)
	}
	return n, nil
}
