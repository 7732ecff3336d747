package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sync/errgroup"

	"slipway/cli"
)

// elsewhere is what the scenario builds from and runs that others have: a git
// server and a registry.
type elsewhere struct {
	git  *slowGit
	host string // of the registry
	img  v1.Image
}

func newElsewhere(t *testing.T, dir string) *elsewhere {
	t.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	return &elsewhere{newSlowGit(t, dir, 0), strings.TrimPrefix(s.URL, "http://"), tool(t, "elsewhere")}
}

// image is a new one with the probe program, pushed as far/of:1.
func (e *elsewhere) image(of string) (v1.Image, error) {
	note, err := crane.Layer(map[string][]byte{"of": []byte(of)})
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(e.img, note)
	if err == nil {
		err = crane.Push(img, e.host+"/far/"+of+":1", crane.Insecure, crane.WithTransport(&http.Transport{DisableKeepAlives: true}))
	}
	return img, err
}

// tellOutside goes through the other scenario: a repository of elsewhere is
// built through Alauda, and its configuration changed; an image of elsewhere is
// run, and its run cancelled; an archive is loaded and its image removed.
func (y *story) tellOutside(ctx context.Context) error {
	img, err := y.from.image(y.name)
	if err != nil {
		return err
	}
	if err := y.commit(ctx, map[string]string{"Dockerfile": "FROM slipway.local/default/steady:latest\nCOPY name /name\n", "name": y.name}); err != nil {
		return err
	}
	other := y.s.job(y.name+"-run",
		runs("far/"+y.name, "1", "/probe lines 10 5ms /buddy/"+y.name+"-run/begun", "docker_registry", "OTHER", "registry", y.from.host, "export_container_path", "/image.tar"),
		runs("far/"+y.name, "1", "/probe lines 3000 20ms", "docker_registry", "OTHER", "registry", y.from.host, "name", "Long"))
	g, all := errgroup.WithContext(ctx)
	g.Go(func() error { return y.buildOutside(all) })
	g.Go(func() error { return other.cancelled(all) })
	g.Go(func() error { return y.load(all, img) })
	g.Go(func() error { return y.hostSecond(all) })
	if err := g.Wait(); err != nil {
		return err
	}
	if err := other.gone(ctx, other.pipelinePath()); err != nil {
		return err
	}
	if err := other.gone(ctx, other.path()); err != nil {
		return err
	}
	return y.gone(ctx, y.path())
}

// gone deletes what a path leads to.
func (j *job) gone(ctx context.Context, path string) error {
	return keep(ctx, "delete "+path, time.Minute, func(ctx context.Context) error {
		if err := j.s.Do(ctx, "DELETE", path, nil, nil); !cli.IsStatus(err, http.StatusNotFound) {
			return err
		}
		return nil
	})
}

// tagConfigs are those of an Alauda repository as they are told.
type tagConfigs struct {
	BuildConfig struct {
		TagConfigs []map[string]any `json:"tag_configs"`
	} `json:"build_config"`
}

// buildOutside makes a build repository of a repository of elsewhere, builds it
// once, and gives its only tag config another tag.
func (y *story) buildOutside(ctx context.Context) error {
	at := "/v1/repositories/default"
	var c tagConfigs
	err := keep(ctx, "repository", time.Minute, func(ctx context.Context) error {
		err := y.s.Do(ctx, "GET", at+"/"+y.name, nil, &c)
		if !cli.IsStatus(err, http.StatusNotFound) {
			return err
		}
		return y.s.Do(ctx, "POST", at, map[string]any{"repo_name": y.name, "build_config": map[string]any{
			"code_repo_client": "Simple", "code_repo_clone_url": y.from.git.url + "/work-" + y.name + "/.git", "tag_configs": []any{map[string]any{
				"code_repo_type": "branch", "code_repo_type_value": "main", "docker_repo_tag": "one", "dockerfile_location": "/", "is_active": false,
			}},
		}}, &c)
	})
	if err != nil {
		return err
	}
	if len(c.BuildConfig.TagConfigs) != 1 {
		return fmt.Errorf("the repository has %+v", c)
	}
	type build struct {
		ID     string `json:"build_id"`
		Status string
	}
	var b build
	err = keep(ctx, "build", 2*time.Minute, func(ctx context.Context) error {
		var l struct{ Results []build }
		if err := y.s.Do(ctx, "GET", "/v1/builds?namespace=default&repo_name="+y.name, nil, &l); err != nil {
			return err
		}
		switch {
		case len(l.Results) > 1:
			return wrong("there are builds %+v", l)
		case len(l.Results) == 0:
			if err := y.s.Do(ctx, "POST", "/v1/builds", map[string]any{"namespace": "default", "repo_name": y.name, "tag": "one"}, nil); err != nil {
				return err
			}
			return errYet
		case !strings.Contains("SFD", l.Results[0].Status):
			return errYet
		}
		b = l.Results[0]
		return nil
	})
	if err != nil {
		return err
	}
	if b.Status != "S" {
		var said any
		_ = y.s.Do(ctx, "GET", "/v1/builds/"+b.ID+"/logs", nil, &said)
		return fmt.Errorf("the build is %s: %v", b.Status, said)
	}
	return keep(ctx, "configuration", time.Minute, func(ctx context.Context) error {
		if err := y.s.Do(ctx, "GET", at+"/"+y.name, nil, &c); err != nil {
			return err
		}
		l := c.BuildConfig.TagConfigs
		if len(l) != 1 {
			return wrong("the repository has %+v", c)
		}
		if l[0]["docker_repo_tag"] == "two" {
			return nil
		}
		l[0]["docker_repo_tag"] = "two"
		return y.s.Do(ctx, "PUT", at+"/"+y.name+"/build-config", map[string]any{"tag_configs": l}, nil)
	})
}

// cancelled starts an execution and ends it while its last action runs.
func (j *job) cancelled(ctx context.Context) error {
	if err := j.makeProject(ctx); err != nil {
		return err
	}
	if err := j.makePipeline(ctx); err != nil {
		return err
	}
	var e execution
	err := keep(ctx, "execution", 2*time.Minute, func(ctx context.Context) error {
		l, err := j.executions(ctx)
		switch {
		case err != nil:
			return err
		case len(l) > 1:
			return wrong("there are executions %v", l)
		case len(l) == 0:
			if err := j.s.Do(ctx, "POST", j.pipelinePath()+"/executions", map[string]any{}, nil); err != nil {
				return err
			}
			return errYet
		}
		if e, err = j.execution(ctx, l[0]); err != nil {
			return err
		}
		if over(e.Status) {
			return nil
		}
		if len(e.Steps) == 2 && e.Steps[1].Status == "INPROGRESS" {
			err := j.s.Do(ctx, "PATCH", fmt.Sprintf("%s/executions/%d", j.pipelinePath(), e.ID), map[string]any{"operation": "CANCEL"}, nil)
			if err != nil && !cli.IsStatus(err, http.StatusBadRequest) { // it may have ended by now
				return err
			}
		}
		return errYet
	})
	if err != nil {
		return err
	}
	if e.Status != "TERMINATED" || len(e.Steps) != 2 || e.Steps[0].Status != "SUCCESSFUL" {
		return fmt.Errorf("the execution is %s", e)
	}
	return keep(ctx, "logs", time.Minute, func(ctx context.Context) error {
		for i, n := range []int{10, -1} {
			l, err := j.log(ctx, e.ID, e.Steps[i])
			if err != nil {
				return err
			}
			if begin, err := counted(l, n, n > 0); err != nil && begin != "" {
				return wrong("the log of %s: %v:\n%s", e.Steps[i].Action.Name, err, strings.Join(l, "\n"))
			}
		}
		return nil
	})
}

// hostSecond makes a project as a client of hosting does, with a stack beside
// the default one, and removes its service, its volume, and it. At last the
// project gets a repository of elsewhere.
func (y *story) hostSecond(ctx context.Context) error {
	j := y.s.job(y.name + "-host")
	err := keep(ctx, "project of hosting", time.Minute, func(ctx context.Context) error {
		err := j.s.Do(ctx, "GET", j.path(), nil, nil)
		if !cli.IsStatus(err, http.StatusNotFound) {
			return err
		}
		var l []struct{ ServerID string }
		if err := j.s.Do(ctx, "GET", "/v2/projects?limit=1", nil, &l); err != nil || len(l) != 1 {
			return fmt.Errorf("no project tells of its server: %v, %w", l, err)
		}
		return j.s.Do(ctx, "POST", "/v2/servers/"+l[0].ServerID+"/projects", map[string]any{"description": j.name}, nil)
	})
	if err == nil {
		err = j.makeProject(ctx) // it is there: finds its id
	}
	if err != nil {
		return err
	}
	err = keep(ctx, "registry", time.Minute, func(ctx context.Context) error {
		var l []struct{ URI string }
		if err := j.s.Do(ctx, "GET", "/v2/projects/"+j.id+"/registries", nil, &l); err != nil {
			return err
		}
		for _, r := range l {
			if r.URI == y.from.host {
				return nil
			}
		}
		return j.s.Do(ctx, "POST", "/v2/projects/"+j.id+"/registries", map[string]any{"description": "elsewhere", "uri": y.from.host}, nil)
	})
	if err != nil {
		return err
	}
	second := *j
	err = keep(ctx, "second stack", time.Minute, func(ctx context.Context) error {
		var l []struct{ ID, Description string }
		if err := j.s.Do(ctx, "GET", "/v2/projects/"+j.id+"/stacks", nil, &l); err != nil {
			return err
		}
		for _, s := range l {
			if s.Description == "second" {
				second.id = s.ID
				return nil
			}
		}
		if err := j.s.Do(ctx, "POST", "/v2/projects/"+j.id+"/stacks", map[string]any{"description": "second"}, nil); err != nil {
			return err
		}
		return errYet
	})
	if err != nil {
		return err
	}
	declare := func(services map[string]any) error {
		return keep(ctx, "declare", time.Minute, func(ctx context.Context) error {
			return j.s.Do(ctx, "PUT", second.stackPath(), map[string]any{"services": services, "volumes": map[string]any{"data": map[string]any{"name": "data"}}}, nil)
		})
	}
	if err := declare(map[string]any{"web": hosted("1", "data:/data")}); err != nil {
		return err
	}
	if _, err := second.running(ctx, "web"); err != nil {
		return err
	}
	if err := declare(map[string]any{}); err != nil {
		return err
	}
	err = keep(ctx, "remove the volume", time.Minute, func(ctx context.Context) error {
		var l []struct{ ID string }
		if err := j.s.Do(ctx, "GET", second.stackPath()+"/volumes", nil, &l); err != nil || len(l) == 0 {
			return err
		}
		if err := j.s.Do(ctx, "DELETE", second.stackPath()+"/volumes/"+l[0].ID, nil, nil); err != nil {
			return err
		}
		return errYet
	})
	if err != nil {
		return err
	}
	if err := j.gone(ctx, second.stackPath()); err != nil {
		return err
	}
	err = keep(ctx, "link", time.Minute, func(ctx context.Context) error {
		return j.s.Do(ctx, "PATCH", j.path(), map[string]any{"custom_repo_url": y.from.git.url + "/work-" + y.name + "/.git"}, nil)
	})
	if err != nil {
		return err
	}
	return j.gone(ctx, j.path())
}

// load stores an archive and removes its image.
func (y *story) load(ctx context.Context, img v1.Image) error {
	full := "default/" + y.name + "-loaded:1"
	ref, err := name.ParseReference("slipway.local/" + full)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := tarball.Write(ref, img, &archive); err != nil {
		return err
	}
	var made struct{ Images []struct{ Digest string } }
	err = keep(ctx, "load", time.Minute, func(context.Context) error {
		said, err := y.s.raw("POST", "/slipway/v1/images:load?name="+full, "application/x-tar", archive.Bytes(), http.StatusCreated)
		if err == nil {
			err = json.Unmarshal([]byte(said), &made)
		}
		return err
	})
	if err != nil {
		return err
	}
	if len(made.Images) != 1 {
		return fmt.Errorf("loaded is %+v", made)
	}
	at := "/v2/default/" + y.name + "-loaded/manifests/"
	return keep(ctx, "remove", time.Minute, func(context.Context) error {
		if _, err := y.s.raw("DELETE", at+made.Images[0].Digest, "", nil, http.StatusAccepted, http.StatusNotFound); err != nil {
			return err
		}
		if said, err := y.s.raw("GET", at+"1", "", nil, http.StatusNotFound); err != nil {
			return wrong("it is there: %v: %s", err, said)
		}
		return nil
	})
}
