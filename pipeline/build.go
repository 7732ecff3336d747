package pipeline

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"slipway/db"
	"slipway/engine"
)

// giver is the step before another one whose image it is to use.
func (x Execution) giver(s ActionExecution, from ImageFrom) (ActionExecution, bool) {
	for _, t := range slices.Backward(x.Steps[:s.Index]) {
		switch b := t.Action; {
		case b.Build == nil, from.ID != 0 && b.ID != from.ID, from.ID == 0 && from.Name != "" && b.Name != from.Name:
			continue
		}
		return t, true
	}
	return ActionExecution{}, false
}

// given finds the image that an earlier build made. It has one of the platform,
// "" is the host's.
func (h *handling) given(ctx context.Context, s ActionExecution, from ImageFrom, platform string) (string, error) {
	if t, ok := h.x.giver(s, from); ok {
		if t.Status == Successful && t.Digest != "" {
			return t.Digest, nil
		}
		return h.lastBuilt(ctx, t.Action.ID, t.Action.Name, platform)
	}
	switch {
	case from.ID != 0: // a later action, or one that is no longer there
		return h.lastBuilt(ctx, from.ID, fmt.Sprint(from.ID), platform)
	case from.Name != "":
		return "", fatal("use_image_from_action: there is no build action %q before this one", from.Name)
	}
	return "", fatal("use_image_from_action: there is no build action before this one")
}

// lastBuilt is the result of an action's last success in this pipeline.
func (h *handling) lastBuilt(ctx context.Context, id ActionID, name, platform string) (string, error) {
	var digest string
	err := h.p.db.Read(ctx, func(tx *db.Tx) error {
		err := tx.QueryRow(`SELECT s.digest FROM action_executions s JOIN executions e ON e.id = s.execution
			WHERE s.action = ? AND e.pipeline = ? AND s.status = 'SUCCESSFUL' AND s.digest <> '' AND e.mode <> 'LOCAL'
			ORDER BY s.started DESC LIMIT 1`, id, h.x.Pipeline).Scan(&digest)
		return db.NotFound(err, "image")
	})
	if errdefs.IsNotFound(err) {
		return "", fatal("use_image_from_action: the build action %q was not run in this execution and never succeeded before: run it first", name)
	}
	if err != nil {
		return "", err
	}
	if _, err := h.eng.Images().Inspect(ctx, digest, platform); err != nil {
		return "", fatal("use_image_from_action: the image that the build action %q made last (%s) is no longer kept: run that action again: %w",
			name, digest, err)
	}
	return digest, nil
}

// build builds an image and pushes it if it goes to somebody's registry.
func (h *handling) build(ctx context.Context, s ActionExecution, v *values, log *lines) (Result, []string, error) {
	b, x := *s.Action.Build, h.x
	way, err := h.reach(ctx, s, v, log)
	if err != nil {
		return Result{}, nil, err
	}
	b.Registry = way.Registry
	if err := b.named(v); err != nil {
		return Result{}, nil, &fatalError{err}
	}
	to, err := b.target(h.project.Domain, h.project.Name, v, func(ref string) (string, bool) {
		name, _, _, own := h.p.images.Own(ref)
		return name, own
	})
	if err != nil {
		return Result{}, nil, &fatalError{err}
	}
	switch {
	case x.local():
		to.ofTree(h.project.Domain+"/"+h.project.Name, x.By)
	case x.PullRequest != "":
		to.ofPull(prNumber(x.PullRequest))
	}
	h.once(ctx, log, prefixed(to.Notes))
	if log.err != nil {
		return Result{}, nil, fmt.Errorf("write the log: %w", log.err)
	}
	for _, n := range to.Own { // known before the build: its end and its tags are one transaction
		if err := h.p.images.CheckTarget(n); err != nil {
			return Result{}, nil, fatal("the image cannot be called %s: %w", n, err)
		}
	}
	if b.copies() {
		return h.copyImage(ctx, s, b, to, way, v, log)
	}
	args := b.args(v)
	if err := b.public(v, args); err != nil {
		return Result{}, nil, &fatalError{err}
	}
	folder, err := rooted(v.expand(b.Context))
	if err != nil {
		return Result{}, nil, fatal("context_path: %w", err)
	}
	if _, err := rooted(v.expand(b.Dockerfile)); err != nil {
		return Result{}, nil, fatal("dockerfile_path: %w", err)
	}
	spec := engine.BuildSpec{
		Owner: x.ID.Owner(), Workspace: x.Workspace, Cache: cacheOf(x, b), Source: engine.Source{Volume: h.volume},
		Context: folder, Dockerfile: v.expand(b.Dockerfile), Target: v.expand(b.Target),
		Platforms: commaList(v.expand(b.Platforms)), Args: args, NoCache: b.NoCache,
		Pull: b.Pull != nil && *b.Pull || b.Pull == nil && b.Multi, Provenance: b.provenance(),
		Lookup: func(ctx context.Context, ref string) (string, error) { return h.p.images.Lookup(ctx, x.Workspace, ref) },
		Logins: way.logins, Timeout: s.Action.timeout(), Log: log.dir, LogMax: h.p.cfg.LogMax,
	}
	if spec.Dockerfile == "" {
		spec.Dockerfile = "Dockerfile"
	}
	if b.Archive && x.Commit != nil {
		spec.Source = engine.Source{Archive: func(ctx context.Context) (io.ReadCloser, error) {
			return h.p.sources.Archive(ctx, x.Project, x.Commit.Revision, "")
		}}
	}
	names := slices.Concat(to.Own, to.Push)
	spec.Name, spec.Also = names[0], names[1:]
	if spec.Secrets, err = h.buildSecrets(ctx, b, v); err != nil {
		return Result{}, nil, err
	}
	spec.Mask = v.mask
	built, err := h.eng.Build(ctx, h.engineID(s), spec)
	if err != nil {
		return Result{}, nil, fmt.Errorf("build %s: %w", spec.Name, err)
	}
	h.used = built.Used
	h.built = h.cached(ctx, s, spec, built)
	res := Result{Status: Failed, Code: -1, Used: h.used, Build: h.built}
	switch {
	case built.Reason == engine.ReasonCancel:
		res.Status, res.Reason, res.Error = Terminated, EndCancelled, "cancelled"
		return res, nil, nil
	case built.Reason == engine.ReasonTimeout:
		res.Reason = EndTimeout
		res.Error = fmt.Sprintf("ended after its timeout of %s: raise the action's timeout, or make the build faster", s.Action.timeout())
		return res, nil, nil
	case built.Failure != "" || built.Image.Digest == "":
		res.Reason, res.Code, res.Error = EndBuild, 1, built.Failure
		if built.Refused {
			res.Reason = EndPullRefused
		}
		return res, nil, nil
	}
	return h.publish(ctx, built.Image.Digest, to, way, v, log)
}

// publish sends an image to where it belongs elsewhere; its names in the own
// registry become true with the result.
func (h *handling) publish(ctx context.Context, digest string, to target, way *reach, v *values, log *lines) (Result, []string, error) {
	for _, ref := range to.Push {
		if err := h.push(ctx, digest, ref, way, v, log); err != nil {
			return Result{}, nil, refusedOr(fmt.Errorf("push %s: %w", ref, err), EndPushRefused, EndPush, EndPush)
		}
		log.pending = append(log.pending, "Pushed "+ref+" "+digest)
	}
	log.flush()
	img := slices.Concat(to.Own, to.Push)[0]
	if len(to.Own) > 0 {
		img = ownHost + "/" + img
	}
	return Result{Status: Successful, Reason: EndDone, Used: h.used, Build: h.built, Digest: digest, Image: img}, to.Own, nil
}

// buildSecrets reads the values of a build's secrets and has them masked.
func (h *handling) buildSecrets(ctx context.Context, b Build, v *values) ([]engine.BuildSecret, error) {
	var l []engine.BuildSecret
	for _, s := range b.Secrets {
		id, from := v.expand(s.ID), v.expand(s.Value)
		if s.Type == "ENV" {
			value, ok := v.byKey[from]
			if !ok {
				return nil, fatal("secret %s: there is no variable %s", id, from)
			}
			v.hide(value)
			l = append(l, engine.BuildSecret{ID: id, Value: []byte(value)})
			continue
		}
		file, err := rooted(from)
		if err != nil {
			return nil, fatal("secret %s: %w", id, err)
		}
		value, err := h.secretFile(ctx, strings.TrimPrefix(file, "/"))
		if err != nil {
			return nil, fatal("secret %s: read %s in the pipeline's file system: %w", id, from, err)
		}
		v.hide(string(value))
		l = append(l, engine.BuildSecret{ID: id, Value: value})
	}
	return l, nil
}
