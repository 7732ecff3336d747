package fake

import (
	"slices"
	"time"

	"slipway/engine"
)

// Calls lists what was called since the world began, a line a call: "Run ID",
// "Apply start ID", "Hold ID DIGEST"...
func (e *Engine) Calls() []string {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	return slices.Clone(e.w.calls)
}

// FailNext makes the next call of that name ("Run", "Apply", "Observe", "Pull",
// "Ensure"...) fail. Several are used up in turn.
func (e *Engine) FailNext(call string, err error) {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	e.w.fail[call] = append(e.w.fail[call], err)
}

// Block lets all calls of that name wait until release is called.
func (e *Engine) Block(call string) (release func()) {
	c := make(chan struct{})
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	e.w.blocked[call] = c
	return func() {
		e.w.mu.Lock()
		defer e.w.mu.Unlock()
		if e.w.blocked[call] == c {
			delete(e.w.blocked, call)
			close(c)
		}
	}
}

func (w *world) gate(id string) *gate {
	g := w.gates[id]
	if g == nil {
		g = &gate{reached: make(chan struct{}), open: make(chan struct{})}
		w.gates[id] = g
	}
	return g
}

// Release lets the word "block" of a run, build or instance go on, now and
// whenever it comes.
func (e *Engine) Release(id string) {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	if g := e.w.gate(id); !g.isOpen {
		g.isOpen = true
		close(g.open)
	}
}

// Await waits until a run, build or instance has come to the word "block".
func (e *Engine) Await(id string) {
	e.w.t.Helper()
	e.w.mu.Lock()
	g := e.w.gate(id)
	e.w.mu.Unlock()
	select {
	case <-g.reached:
	case <-time.After(20 * time.Second):
		e.w.t.Fatalf("%s did not come to its block", id)
	}
}

func (e *Engine) proc(id string) *proc {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	if p := e.w.runs[id]; p != nil {
		return p
	}
	if i := e.w.instances[id]; i != nil {
		return i.proc
	}
	return nil
}

// Exit ends a run or an instance as if its program had come to that end.
func (e *Engine) Exit(id string, code int) { e.endProc(id, &ending{code: code}) }

// Kill ends it with a signal from somewhere, without a reason that is known.
func (e *Engine) Kill(id string, signal int) {
	e.endProc(id, &ending{code: 128 + signal, signal: signal})
}

// Lose takes a container and its monitor away: the code is not known.
func (e *Engine) Lose(id string) {
	e.endProc(id, &ending{code: -1, reason: engine.ReasonLost, message: "the monitor was killed"})
}

func (e *Engine) endProc(id string, how *ending) {
	e.w.t.Helper()
	p := e.proc(id)
	if p == nil {
		e.w.t.Fatalf("there is no container %s to end", id)
		return
	}
	p.end(how)
	<-p.done
}

// Reboot ends all containers as a restart of the host does.
func (e *Engine) Reboot() {
	e.w.mu.Lock()
	all := e.w.all()
	e.w.mu.Unlock()
	for _, p := range all {
		p.end(&ending{code: -1, reason: engine.ReasonHost, message: "the host was restarted"})
		<-p.done
	}
}

// RunSpec gives what a run was started with.
func (e *Engine) RunSpec(id string) (engine.RunSpec, bool) {
	if p := e.proc(id); p != nil && p.run != nil {
		return *p.run, true
	}
	return engine.RunSpec{}, false
}

// ServiceSpec gives what an instance was started with.
func (e *Engine) ServiceSpec(id string) (engine.ServiceSpec, bool) {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	if i := e.w.instances[id]; i != nil {
		return i.spec, true
	}
	return engine.ServiceSpec{}, false
}

// BuildSpec gives what a build was last called with.
func (e *Engine) BuildSpec(id string) (engine.BuildSpec, bool) {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	s, ok := e.w.builds[id]
	return s, ok
}

// Image makes an image in the store that runs words in a shell, and gives its
// digest. It is held under the id "test/<digest>".
func (e *Engine) Image(words string) string {
	e.w.t.Helper()
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	d, err := e.w.make(newConfig([]string{"/bin/sh", "-c", words}), "test image: "+words)
	if err != nil {
		e.w.t.Fatal(err)
	}
	e.w.holds["test/"+d] = d
	return d
}

// Publish puts an image of the store into an outside registry under a
// normalized reference, with host and tag.
func (e *Engine) Publish(ref, digest string) {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	e.w.remotes[ref] = digest
}

// Protect lets a registry refuse everything but that login.
func (e *Engine) Protect(hostname, user, password string) {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	e.w.hosts[hostname] = &host{user: user, password: password}
}

// Unreachable takes a registry off the network.
func (e *Engine) Unreachable(hostname string) {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	e.w.hosts[hostname] = &host{gone: true}
}

// NoRegistry lets something else answer at the host.
func (e *Engine) NoRegistry(hostname string) {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	e.w.hosts[hostname] = &host{page: true}
}

// Published gives the digest behind a reference of an outside registry, "" if
// there is none: what Push has sent.
func (e *Engine) Published(ref string) string {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	return e.w.remotes[ref]
}
