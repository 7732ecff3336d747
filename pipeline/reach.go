package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"slipway/db"
	"slipway/engine"
	"slipway/registry"
	"slipway/secret"
)

// reach is a step's way to registries: the one that its action names, and those
// that the project has logins of.
type reach struct {
	Registry // as it holds: the kind is said, and the URL is a place
	logins   []engine.Login

	want *registry.Want // whose login logins[0] is; nil: of no integration
	ends bool           // that login is a token with an end
}

// How often a token that a registry takes no more is got anew for one call, and
// how long a registry that asks us to come later is left alone before a push is
// tried again.
const renewals = 3

func pauses() []time.Duration { return []time.Duration{time.Second, 3 * time.Second} }

// outside tells whether a kind is a registry of somebody else.
func (k RegistryKind) outside() bool {
	switch k {
	case "", RegistryNone, PackageRegistry, ArtifactRegistry:
		return false
	}
	return true
}

// vendor is the host that a kind has where nothing else says one.
func (k RegistryKind) vendor() string {
	switch k {
	case DockerHub, OtherRegistry:
		return registry.DockerHub
	case GitHubRegistry:
		return registry.GitHub
	case DigitalOceanRegistry:
		return registry.DigitalOcean
	}
	return ""
}

// holds is the kind that holds for an action whose integration is of a type; ""
// if it has none.
func (r Registry) holds(typ, host string) RegistryKind {
	if r.Kind != "" {
		return r.Kind
	}
	switch {
	case typ == secret.Amazon && r.Region != "":
		return AmazonECR
	case typ == secret.Google && slices.Contains(registry.GoogleHosts(), host):
		return GoogleGCR
	case typ == secret.Google && strings.HasSuffix(host, ".pkg.dev"):
		return GoogleArtifact
	case typ == secret.DockerHub:
		return DockerHub
	case typ == secret.GitHub, typ == secret.GitHubEnterprise:
		return GitHubRegistry
	case typ == secret.DigitalOcean:
		return DigitalOceanRegistry
	}
	return r.Effective()
}

// reach finds the way of a step. The login of an action itself goes before that
// of its integration, and both before those of the project. All passwords are
// masked from here on.
func (h *handling) reach(ctx context.Context, s ActionExecution, v *values, log *lines) (*reach, error) {
	r := *s.Action.registry()
	if h.x.untrusted() {
		if r.Integration != nil {
			return nil, fatal("integration %s: %s", r.Integration.name(), withheld)
		}
		r.Username, r.Password = "", ""
	}
	if err := h.openPassword(ctx, s, &r); err != nil {
		return nil, err
	}
	var in secret.Integration
	if r.Integration != nil && (r.Kind == "" || len(registry.Types(string(r.Kind))) > 0) {
		var err error
		if in, err = h.integration(ctx, r.Integration.name()); err != nil {
			return nil, err
		}
	}
	host, below, _ := r.host(v)
	way := &reach{Registry: r}
	way.Kind = r.holds(in.Type, host)
	switch types := registry.Types(string(way.Kind)); {
	case in.ID == "":
	case len(types) == 0:
		h.once(ctx, log, prefixed([]string{"integration has no effect: it says no registry together with the action's other fields"}))
	case r.Username != "":
		h.once(ctx, log, prefixed([]string{"integration has no effect beside login and password"}))
	case !slices.Contains(types, in.Type):
		return nil, fatal("integration %s is of type %s, and docker_registry %s needs one of %s", r.Integration.name(), in.Type, way.Kind, strings.Join(types, " or "))
	default:
		way.want = &registry.Want{Kind: string(way.Kind), Host: host, Region: v.expand(r.Region), Integration: in, Run: h.identity()}
	}
	way.logins = way.login(v)
	if way.want != nil {
		way.logins = make([]engine.Login, 1)
		if err := h.fetch(ctx, way, v); err != nil {
			return nil, err
		}
		host = way.logins[0].Host
	} else if host == "" {
		host = way.Kind.vendor()
	}
	if way.Kind.outside() {
		if host == "" {
			return nil, fatal("registry is required with docker_registry %s and no integration", way.Kind)
		}
		way.URL = strings.Trim(host+"/"+below, "/")
	}
	stored, err := h.p.secrets.OpenLogins(ctx, h.x.Project)
	if err != nil {
		return nil, fmt.Errorf("read the registry logins of the project: %w", err)
	}
	if h.x.untrusted() {
		stored = nil
	}
	for _, w := range stored {
		if !slices.ContainsFunc(way.logins, func(have engine.Login) bool { return have.Host == w.Host && have.Username != "" }) {
			way.logins = append(way.logins, engine.Login{Host: w.Host, Username: w.Username, Password: w.Password})
		}
	}
	for _, w := range way.logins {
		v.hide(w.Password)
	}
	return way, nil
}

// identity is who the run is, for clouds that ask.
func (h *handling) identity() secret.Run {
	_, _, ref := h.x.ref()
	return secret.Run{
		Workspace: h.project.Domain, Project: h.project.Name, Pipeline: h.x.Frozen.Identifier,
		ProjectID: string(h.x.Project), PipelineID: strconv.FormatInt(int64(h.x.Pipeline), 10), Execution: string(h.x.ID), Ref: ref, Mode: h.x.Mode,
	}
}

// openPassword puts the password of an action's own login into r.
func (h *handling) openPassword(ctx context.Context, s ActionExecution, r *Registry) error {
	if r.Password != secret.Encrypted {
		return nil
	}
	var hidden map[string]string
	err := h.p.db.Read(ctx, func(tx *db.Tx) (err error) {
		hidden, err = h.vault(tx, s.Action.ID.row(), "actions", int64(s.Action.ID), h.x.own)
		return err
	})
	if err != nil {
		return err
	}
	place := r.place()
	if r.Password = hidden["password"]; r.Password == "" || hidden["password for"] != place {
		return fatal("the registry password of action %q is gone: it was changed after the execution started", s.Action.Name)
	}
	return nil
}

// name is the word by which an integration is looked for.
func (i Integration) name() string { return cmp.Or(i.HashID, i.Identifier, i.ID) }

// integration opens the integration that an action names.
func (h *handling) integration(ctx context.Context, name string) (secret.Integration, error) {
	in, err := h.p.secrets.OpenIntegration(ctx, h.x.Workspace, name, h.x.Project, int64(h.x.Pipeline))
	switch {
	case errdefs.IsNotFound(err):
		return in, fatal("integration %s: there is none of that hash_id or identifier in the workspace: make it, or name another one", name)
	case errdefs.IsPermissionDenied(err):
		return in, fatal("integration %s may not be used by this pipeline: its scope or its allowed_pipelines leave it out", name)
	case err != nil:
		return in, fmt.Errorf("read the integration %s: %w", name, err)
	}
	return in, nil
}

// fetch gets the login of a way's integration.
func (h *handling) fetch(ctx context.Context, way *reach, v *values) error {
	l, err := h.p.cfg.Registries.Login(ctx, *way.want)
	if err != nil {
		err = fmt.Errorf("integration %s: %w", way.Integration.name(), err)
		if !errdefs.IsUnavailable(err) && ctx.Err() == nil {
			err = &fatalError{err}
		}
		return err
	}
	v.hide(l.Password)
	way.logins[0], way.ends = l.Login, !l.Expires.IsZero()
	return nil
}

// let makes a call of a registry. When it is refused with a token that has an
// end, that may have come: the call is made again with a new one.
func (h *handling) let(ctx context.Context, way *reach, v *values, call func() error) error {
	for n := 0; ; n++ {
		err := call()
		if !errdefs.IsUnauthorized(err) || !way.ends || n == renewals {
			return err
		}
		h.p.cfg.Registries.Forget(*way.want)
		if ferr := h.fetch(ctx, way, v); ferr != nil {
			return errors.Join(err, ferr)
		}
	}
}

// push sends an image to a registry. What has come there by an earlier try is
// not sent again.
func (h *handling) push(ctx context.Context, digest, ref string, way *reach, v *values, log *lines) error {
	for _, pause := range append(pauses(), 0) {
		err := h.let(ctx, way, v, func() error { return h.eng.Images().Push(ctx, digest, ref, way.logins) })
		if err == nil || pause == 0 || !errdefs.IsUnavailable(err) || ctx.Err() != nil {
			return err
		}
		log.say(fmt.Sprintf("Note: %s could not be pushed; once more in %s", ref, pause))
		log.flush()
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
