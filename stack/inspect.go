package stack

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"

	"slipway/access"
	"slipway/engine"
	"slipway/image"
	"slipway/project"
	"slipway/secret"
)

// Question is which image Inspect is asked about.
type Question struct {
	Ref     string     // as its user wrote it
	Project project.ID // whose logins are tried; "" for none
	Login   string     // id of a login of that is tried, "" for none
}

// Inspect tells of an image as a service would get it now: it is asked for, and
// brought here, like that of a service that is pulled. One that does not exist
// is errdefs.ErrNotFound; one that cannot be had is errdefs.ErrFailedPrecondition.
func (s *Stacks) Inspect(ctx context.Context, by access.Actor, q Question) (img engine.Image, err error) {
	workspaces, logins, err := s.inspectAs(ctx, by, q)
	if err != nil {
		return img, err
	}
	ref, err := image.Normalize(q.Ref)
	if err != nil {
		return img, err
	}
	if err := s.cfg.Room(); err != nil {
		return img, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, pullTime, fmt.Errorf("the pull took longer than %s: %w", pullTime, errdefs.ErrUnavailable))
	defer cancel()
	for _, ws := range workspaces {
		img, err = s.images.Resolve(ctx, image.Request{Workspace: ws, Ref: q.Ref, Refresh: true, Logins: logins})
		if !errdefs.IsNotFound(err) { // an own image of another workspace
			break
		}
	}
	tried := slices.ContainsFunc(logins, func(l engine.Login) bool { return ofHost(ref, l.Host) })
	switch {
	case errdefs.IsUnauthorized(err) && !tried: // registries say this of images that are not there
		return img, fmt.Errorf("image %s: %w", q.Ref, errdefs.ErrNotFound)
	case errdefs.IsUnauthorized(err), errdefs.IsUnavailable(err) && ctx.Err() == nil:
		return img, fmt.Errorf("%w: %w", errdefs.ErrFailedPrecondition.WithMessage("the image "+q.Ref+" cannot be had"), hideKind{err})
	}
	return img, err
}

// hideKind is an error that is of no kind any more.
type hideKind struct{ err error }

func (h hideKind) Error() string { return h.err.Error() }

// ofHost tells whether a login is for the registry of a normalized reference.
func ofHost(ref, host string) bool {
	n, err := reference.ParseNamed(ref)
	if err != nil {
		return false
	}
	d := reference.Domain(n)
	return strings.EqualFold(d, host) || d == "docker.io" && strings.HasSuffix(strings.ToLower(host), ".docker.io")
}

// inspectAs gives the workspaces for which an image may be looked for, and the
// logins that are tried.
func (s *Stacks) inspectAs(ctx context.Context, by access.Actor, q Question) (workspaces []string, logins []engine.Login, err error) {
	of := []project.ID{}
	if q.Login != "" {
		l, err := s.secrets.Login(ctx, by, q.Login)
		if err != nil {
			return nil, nil, err
		}
		of = append(of, l.Project)
	}
	if q.Project != "" && !slices.Contains(of, q.Project) {
		of = append(of, q.Project)
	}
	if len(of) == 0 {
		if err := by.Has(access.StackRead); err != nil {
			return nil, nil, err
		}
		all, _ := by.Workspaces()
		workspaces = slices.DeleteFunc(all, func(w string) bool { return by.May(w, access.StackRead) != nil })
		if len(workspaces) == 0 {
			return nil, nil, fmt.Errorf("no workspace to look for images in: %w", errdefs.ErrNotFound)
		}
	}
	for _, id := range of {
		all, err := s.visible(ctx, by, id)
		if err != nil {
			return nil, nil, err
		}
		workspaces = append(workspaces, all[0].Workspace)
		open, err := s.secrets.OpenLogins(ctx, id)
		if err != nil {
			return nil, nil, err
		}
		for _, l := range open {
			if l.ID == q.Login || id == q.Project {
				logins = append(logins, forEngine(l))
			}
		}
	}
	return slices.Compact(workspaces), logins, nil
}

// CheckRegistry tells whether there is a registry at "host[:port]", and if not,
// why. Only who may make a login of one may ask.
func (s *Stacks) CheckRegistry(ctx context.Context, by access.Actor, host string) (valid bool, reason string, err error) {
	if err := by.Has(access.StackWrite); err != nil {
		return false, "", err
	}
	if all, _ := by.Workspaces(); !slices.ContainsFunc(all, func(w string) bool { return by.May(w, access.StackWrite) == nil }) {
		return false, "", fmt.Errorf("registries are not for who has no stacks: %w", errdefs.ErrPermissionDenied)
	}
	if why := secret.HostProblem(host); why != "" {
		return false, why, nil
	}
	known, refused := s.ask(ctx, secret.Login{Host: host})
	switch {
	case ctx.Err() != nil:
		return false, "", context.Cause(ctx)
	case refused != nil:
		return false, host + " does not answer as a registry", nil
	case !known:
		return false, host + " cannot be reached", nil
	}
	return true, "", nil
}
