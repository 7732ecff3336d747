package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"slipway/engine"
	"slipway/image"
	"slipway/logs"
	"slipway/logs/segment"
)

// do runs one step to its end, or attaches to it. It gives no error: whatever
// went wrong is a result with a message for the user.
func (h *handling) do(ctx context.Context, i int) settled {
	h.mask, h.used, h.built = nil, engine.Usage{}, nil
	res, tags, err := h.try(ctx, h.x.Steps[i])
	if err != nil && !errors.Is(context.Cause(ctx), engine.ErrDetach) {
		if err := h.end(ctx, h.x.Steps[i]); err != nil {
			h.log.Warn("end a run", "step", i, "error", err)
		}
	}
	why := endedFromAbove(ctx)
	switch {
	case why != nil && (err != nil || res.Status != Successful):
		res = h.broken(context.WithoutCancel(ctx), i, why)
	case err == nil:
		res.Error = h.masked(res.Error)
	case errors.Is(context.Cause(ctx), engine.ErrDetach): // it goes on without us
		return settled{step: i, by: h}
	case errors.Is(context.Cause(ctx), errCancelled):
		res = Result{Status: Terminated, Reason: EndCancelled, Code: -1, Error: "cancelled", Used: h.used, Build: h.built}
	default:
		res = h.broken(ctx, i, err)
	}
	return settled{step: i, result: res, tags: tags, by: h}
}

// end ends the container of a step that will not be asked for any more: an
// earlier server may have started it, and what went wrong since did so before
// the engine was asked again.
func (h *handling) end(ctx context.Context, s ActionExecution) error {
	if s.Action.Run == nil || !h.attached {
		return nil
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	cancel(errCancelled)
	_, err := h.eng.Run(ctx, h.engineID(s), engine.RunSpec{Grace: grace})
	return err
}

// broken is the result of a step that came to no end of its own. Its log says
// why.
func (h *handling) broken(ctx context.Context, i int, err error) Result {
	s := h.x.Steps[i]
	var fatal *fatalError
	res := Result{Status: Failed, Reason: reasonOf(err), Used: h.used, Build: h.built, Code: -1, Error: h.masked(err.Error()), Final: errors.As(err, &fatal)}
	h.log.Info("action failed", "action", s.Action.ID, "step", i, "error", res.Error)
	log := &lines{h: h, dir: h.p.logs.Action(string(h.x.ID), s.ID)}
	h.once(ctx, log, []string{res.Error})
	if log.err != nil {
		h.log.Warn("the reason of a failure is not in its log", "step", i, "error", log.err)
	}
	return res
}

func (h *handling) masked(s string) string { return string(segment.NewMasker(h.mask).Line([]byte(s))) }

// fatalError is a reason that another try would meet again.
type fatalError struct{ error }

func (e *fatalError) Unwrap() error { return e.error }

func fatal(format string, a ...any) error { return &fatalError{fmt.Errorf(format, a...)} }

func (h *handling) try(ctx context.Context, s ActionExecution) (Result, []string, error) {
	log := &lines{h: h, dir: h.p.logs.Action(string(h.x.ID), s.ID), flushed: time.Now()}
	if err := h.check(s); err != nil {
		return Result{}, nil, err
	}
	var err error
	if h.volume, err = h.fileSystem(ctx); err != nil {
		return Result{}, nil, err
	}
	if err := h.makeReady(ctx, s, log); err != nil {
		return Result{}, nil, err
	}
	if err := h.keepFiles(ctx, s); err != nil {
		return Result{}, nil, err
	}
	v, err := h.values(ctx, s)
	if err != nil {
		return Result{}, nil, err
	}
	defer func() { h.mask = v.mask }()
	left := 1
	if len(s.Action.Loop) > 0 {
		if v, left, err = h.round(ctx, s, v, log); err != nil || left <= 0 {
			return Result{Status: Successful, Reason: EndDone}, nil, err
		}
	}
	var res Result
	var tags []string
	if s.Action.Build != nil {
		res, tags, err = h.build(ctx, s, v, log)
	} else {
		res, err = h.run(ctx, s, v, log)
	}
	res.More = left > 1
	return res, tags, err
}

// check finds what this version does not obey.
func (h *handling) check(s ActionExecution) error {
	if h.x.loop.Refused != "" {
		return fatal("%s", h.x.loop.Refused)
	}
	if l := unsupported(s.Action); len(l) > 0 {
		return fatal("action %q has fields that this version of Slipway stores but does not obey: %s; remove them, or set them to their defaults",
			s.Action.Name, strings.Join(l, ", "))
	}
	if l := unsupportedPipeline(h.x.Frozen); len(l) > 0 {
		return fatal("pipeline %q has fields that this version of Slipway stores but does not obey: %s; remove them, or set them to their defaults",
			h.x.Frozen.Name, strings.Join(l, ", "))
	}
	return nil
}

// attempts says that what is above in the log is of an earlier attempt.
func (s ActionExecution) attempts() []string {
	switch {
	case s.Attempt == 1, s.Tries == 0 && s.Round > 0: // the log says which round of its loop it is
		return nil
	case s.Tries > 0:
		return []string{fmt.Sprintf("try %d of %d", s.Tries+1, s.Action.Retries+1)}
	}
	return []string{fmt.Sprintf("retried: attempt %d of this action begins here", s.Attempt)}
}

func prefixed(notes []string) []string {
	for i := range notes {
		notes[i] = "Note: " + notes[i]
	}
	return notes
}

// once writes lines of ours beside the container's own, unless they are there
// already because this is a second look. They may be missing: the first one may
// have been killed before it came to them.
func (h *handling) once(ctx context.Context, log *lines, l []string) {
	if len(l) > 0 && h.attached {
		have, _, err := h.p.logs.Read(ctx, log.dir, logs.Query{Streams: "m"})
		if err != nil {
			log.err = err
			return
		}
		l = slices.DeleteFunc(l, func(n string) bool {
			return slices.ContainsFunc(have, func(l logs.Line) bool { return l.Text == n })
		})
	}
	log.pending = append(log.pending, l...)
	log.flush()
}

// run runs a container.
func (h *handling) run(ctx context.Context, s ActionExecution, v *values, log *lines) (Result, error) {
	r, x := *s.Action.Run, h.x
	way, err := h.reach(ctx, s, v, log)
	if err != nil {
		return Result{}, err
	}
	r.Registry = way.Registry
	ref := "the image of the build action"
	var digest string
	if from := s.Action.imageFrom(); from != nil {
		digest, err = h.given(ctx, s, *from, "")
	} else {
		ref = r.ref(h.project.Domain, v)
		if _, _, _, own := h.p.images.Own(ref); own && r.Registry.Username != "" {
			h.once(ctx, log, prefixed([]string{loginUnused}))
		}
		digest, err = h.resolve(ctx, image.Request{Ref: ref}, way, v, log)
	}
	if err != nil {
		return Result{}, err
	}
	mounts, dir, err := r.mounts(h.volume, h.project.Name, v)
	if err != nil {
		return Result{}, &fatalError{err}
	}
	entrypoint, command, shell, err := r.argv(v)
	command, files := filed(entrypoint, command)
	if err == nil {
		err = fits(v.env(), entrypoint, command)
	}
	if err != nil {
		return Result{}, &fatalError{err}
	}
	command, output := told(entrypoint, command, v)
	spec := engine.RunSpec{
		Output: output,
		Owner:  x.ID.Owner(), Workspace: x.Workspace, Image: digest, Entrypoint: entrypoint, Command: command,
		Env: v.env(), Dir: dir, User: v.expand(r.User), Mounts: mounts, Files: append(files, v.files...),
		Timeout: s.Action.timeout(), Grace: grace, Mask: v.mask, Log: log.dir, LogMax: h.p.cfg.LogMax,
	}
	if p := strings.TrimSpace(v.expand(r.ExportPath)); p != "" {
		if p, err = rooted(p); err != nil {
			return Result{}, fatal("export_container_path: %w", err)
		}
		spec.Export = &engine.VolumePath{Volume: h.volume, Path: p}
	}
	exit, err := h.eng.Run(ctx, h.engineID(s), spec)
	if err != nil {
		return Result{}, fmt.Errorf("run %s: %w", ref, err)
	}
	h.used = exit.Used
	res := ended(exit, ref, shell, s.Action.timeout())
	var notes []string
	res.Outputs, notes = outputs(exit.Output, v)
	h.once(ctx, log, prefixed(notes))
	return res, nil
}

// resolve finds the image that is asked for.
func (h *handling) resolve(ctx context.Context, r image.Request, way *reach, v *values, log *lines) (string, error) {
	r.Workspace = h.x.Workspace
	r.Warn = func(l string) {
		if !h.attached { // what is found out now is not what its container was started with
			log.pending = append(log.pending, l)
		}
	}
	var img engine.Image
	err := h.let(ctx, way, v, func() (err error) {
		r.Logins = way.logins
		img, err = h.p.images.Resolve(ctx, r)
		return err
	})
	log.flush()
	if err = errors.Join(err, log.err); err != nil {
		if said := "image " + r.Ref + ": "; !strings.HasPrefix(err.Error(), said) {
			err = fmt.Errorf("%s%w", said, err)
		}
		return "", refusedOr(err, EndPullRefused, EndNoImage, EndPull)
	}
	return img.Digest, nil
}

// ended says what the end of a container means.
func ended(e engine.Exit, ref string, shell bool, timeout time.Duration) Result {
	r := Result{Status: Failed, Reason: endReason(e), Code: e.Code, Signal: e.Signal, Used: e.Used}
	switch {
	case e.Reason == engine.ReasonCancel:
		r.Status, r.Error = Terminated, "cancelled"
	case e.Reason == engine.ReasonTimeout:
		r.Error = fmt.Sprintf("ended after its timeout of %s: raise the action's timeout, or make it faster", timeout)
	case e.Reason == engine.ReasonStop:
		r.Error = "stopped from outside"
	case e.Reason == engine.ReasonHost:
		r.Error = "ended because the host was restarted: run it again"
	case e.Reason == engine.ReasonLost:
		r.Error = "its end is not known: its monitor was killed: run it again"
	case e.Code == 0 && e.Message == "":
		r.Status = Successful
	case e.OOM:
		r.Error = fmt.Sprintf("ended with exit code %d: it ran out of memory", e.Code)
	case e.Message != "" && e.Code == 127 && shell:
		r.Final = true
		r.Error = fmt.Sprintf("%s has no /bin/sh, so inline_commands cannot be run in it: set entrypoint to a program of the image "+
			"(inline_commands then are its arguments), leave inline_commands empty to start the image's own program, or use an image with a shell (%s)",
			ref, e.Message)
	case e.Message != "":
		r.Error = fmt.Sprintf("could not start: %s", e.Message)
	case e.Signal != 0:
		r.Error = fmt.Sprintf("ended by signal %d (exit code %d)", e.Signal, e.Code)
	default:
		r.Error = fmt.Sprintf("ended with exit code %d", e.Code)
	}
	return r
}
