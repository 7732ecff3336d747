package alauda

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/crypto/ssh"

	"slipway/access"
	"slipway/api"
	"slipway/pipeline"
	"slipway/project"
	"slipway/source"
)

// forges are the hosted kinds of code_repo_client.
var forges = map[string]struct{ base, commit, branch, keys string }{
	"GitHub":    {"https://github.com/", "/commit/", "/tree/", "/settings/keys"},
	"Bitbucket": {"https://bitbucket.org/", "/commits/", "/branch/", "/admin/access-keys/"},
	"OSChina":   {"https://gitee.com/", "/commit/", "/tree/", "/deploy_keys"},
	"GitCafe":   {"https://gitcafe.com/", "/commit/", "/tree/", ""},
}

var forgeName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]*$`)

// remote checks where the code is and gives what to keep of it.
func (h *Handlers) remote(c *buildConfigBody, bad *project.Invalid) (keptConfig, source.Remote) {
	k := keptConfig{Client: c.CodeRepoClient}
	var r source.Remote
	forge, hosted := forges[c.CodeRepoClient]
	switch {
	case hosted:
		for _, f := range [][2]string{{"code_repo_namespace", c.CodeRepoNamespace}, {"code_repo_name", c.CodeRepoName}} {
			if f[1] == "" {
				bad.Add("build_config."+f[0], "required", "is required for "+c.CodeRepoClient)
			} else if !forgeName.MatchString(f[1]) {
				bad.Add("build_config."+f[0], "format", "must be one name of letters, digits, _, . and -")
			}
		}
		k.Path = c.CodeRepoNamespace + "/" + c.CodeRepoName
		r.URL = forge.base + k.Path + ".git"
	case c.CodeRepoClient == "Simple":
		if c.CodeRepoCloneURL == "" {
			bad.Add("build_config.code_repo_clone_url", "required", "is required for Simple")
			break
		}
		r.URL = c.CodeRepoCloneURL
		checked, err := h.Sources.Check(r)
		if inv, ok := project.AsInvalid(err); ok {
			for _, f := range inv.Fields {
				bad.Add("build_config.code_repo_clone_url", f.Kind, f.Message)
			}
			break
		}
		r = checked
		k.Path = r.URL
	case c.CodeRepoClient == "":
		bad.Add("build_config.code_repo_client", "required", "is required")
	case c.CodeRepoClient == "FileUpload":
		bad.Add("build_config.code_repo_client", "unsupported", "uploads are not taken by this version; push the source to the repository of a project")
	default:
		bad.Add("build_config.code_repo_client", "enum", "must be one of GitHub, Bitbucket, OSChina, GitCafe, Simple")
	}
	return k, r
}

// later refuses what this version would not do.
func (c *buildConfigBody) later(prefix string, bad *project.Invalid) {
	if c.EmailEnabled.V {
		bad.Add(prefix+"email_enabled", "unsupported", "this server sends no mail")
	}
	for i, t := range c.TagConfigs {
		if t.IsActive {
			bad.Add(field(prefix+"tag_configs", i)+".is_active", "unsupported", "this version does not hear of pushes to outside repositories; start builds by POST /v1/builds")
		}
	}
}

// same refuses a change of where the code is: that is said once, when the
// repository is made.
func (c *buildConfigBody) same(have keptConfig, bad *project.Invalid) {
	for _, f := range []struct {
		name    string
		changed bool
	}{
		{"code_repo_client", c.CodeRepoClient != "" && c.CodeRepoClient != have.Client},
		{"code_repo_namespace", c.CodeRepoNamespace != "" && !strings.HasPrefix(have.Path, c.CodeRepoNamespace+"/")},
		{"code_repo_name", c.CodeRepoName != "" && !strings.HasSuffix(have.Path, "/"+c.CodeRepoName)},
		{"code_repo_clone_url", c.CodeRepoCloneURL != "" && c.CodeRepoCloneURL != have.Path},
	} {
		if f.changed {
			bad.Add(f.name, "unsupported", "cannot be changed: make another repository")
		}
	}
}

func (c *buildConfigBody) tags(prefix string, bad *project.Invalid) []keptTag {
	if len(c.TagConfigs) == 0 {
		bad.Add(prefix+"tag_configs", "required", "at least one is required")
	}
	seen := map[string]bool{}
	var l []keptTag
	for i, t := range c.TagConfigs {
		k := t.keep(field(prefix+"tag_configs", i), bad)
		if k.Tag != "" && seen[k.Tag] {
			bad.Add(field(prefix+"tag_configs", i)+".docker_repo_tag", "conflict", "is there twice")
		}
		seen[k.Tag] = true
		l = append(l, k)
	}
	return l
}

// createRepository makes the project, links it to its code and makes a
// pipeline for each tag config.
func (h *Handlers) createRepository(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	ws, err := h.Projects.Workspace(r.Context(), by, r.PathValue("namespace"))
	if err != nil {
		return err
	}
	for _, scope := range []access.Scope{access.ProjectWrite, access.ExecutionManage} { // who may not is told nothing of the body
		if err := by.May(ws.ID, scope); err != nil {
			return err
		}
	}
	var b repositoryBody
	if err := api.Decode(w, r, &b); err != nil {
		return err
	}
	bad := &project.Invalid{}
	if b.RepoName == "" {
		bad.Add("repo_name", "required", "is required")
	} else {
		project.CheckName(bad, "repo_name", b.RepoName)
	}
	if b.Namespace != "" && b.Namespace != ws.Domain {
		bad.Add("namespace", "conflict", "must be the one in the path, "+ws.Domain)
	}
	k := kept{Description: b.Description, FullDescription: b.FullDescription}
	var remote *source.Remote
	var tags []keptTag
	if b.BuildConfig != nil {
		c, code := h.remote(b.BuildConfig, bad)
		remote = &code
		tags = b.BuildConfig.tags("build_config.", bad)
		b.BuildConfig.later("build_config.", bad)
		c.BuildNode, c.CreatedBy = "in", by.User.ID
		if b.BuildConfig.BuildNode.Set && !b.BuildConfig.BuildNode.Null {
			c.BuildNode = b.BuildConfig.BuildNode.V
		}
		if c.PublicKey, remote.PrivateKey, err = deployKey(); err != nil {
			return err
		}
		k.Config = &c
	}
	if err := bad.Err(); err != nil {
		return err
	}
	n := project.New{Name: b.RepoName, DisplayName: b.RepoName, Public: b.IsPublic, Attrs: attrsOf(k)}
	p, err := h.Pipelines.CreateProject(r.Context(), by, ws.ID, n, remote, func(all *pipeline.Batch) error {
		for _, t := range tags {
			if err := t.make(all, *k.Config); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return h.answerRepository(w, r, by, p, http.StatusCreated)
}

// deployKey makes the key pair that a forge lets in.
func deployKey() (public string, private []byte, err error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", nil, err
	}
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		return "", nil, err
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		return "", nil, err
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), pem.EncodeToMemory(block), nil
}

// action is the build action of a tag config.
func (k keptTag) action() pipeline.Action {
	dockerfile := strings.TrimPrefix(path.Clean(k.Dockerfile), "/")
	if !isDockerfile(path.Base(dockerfile)) { // a directory
		dockerfile = path.Join(dockerfile, "Dockerfile")
	}
	tags := k.Tag
	switch k.VersionTagging {
	case 1:
		tags += ",$SLIPWAY_VERSION"
	case 2:
		tags += ",$SLIPWAY_COMMIT"
	}
	return pipeline.Action{Name: "Build", Build: &pipeline.Build{
		Dockerfile: dockerfile, Context: strings.TrimPrefix(path.Clean(k.Context), "/"), Tag: tags, Archive: true, NoCache: !k.Cache,
	}}
}

// isDockerfile tells whether a name is one that people give a Dockerfile.
func isDockerfile(name string) bool {
	name = strings.ToLower(name)
	return name == "dockerfile" || strings.HasPrefix(name, "dockerfile.") || strings.HasSuffix(name, ".dockerfile")
}

// make makes the pipeline of a tag config.
func (k keptTag) make(all *pipeline.Batch, c keptConfig) error {
	k.Config = c
	return all.Create(pipeline.Pipeline{Name: k.Tag, Attrs: attrsOf(k)}, k.action())
}

func (h *Handlers) getRepository(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, err := h.find(r, by, r.PathValue("namespace"), r.PathValue("repo"))
	if err != nil {
		return err
	}
	return h.answerRepository(w, r, by, p, http.StatusOK)
}

// tagPipelines are the pipelines of a project that are tag configs, by id.
func (h *Handlers) tagPipelines(ctx context.Context, by access.Actor, p project.ID) ([]pipeline.Pipeline, error) {
	all, err := h.Pipelines.List(ctx, by, p)
	return onlyTags(all), err
}

func onlyTags(all []pipeline.Pipeline) []pipeline.Pipeline {
	return slices.DeleteFunc(all, func(pl pipeline.Pipeline) bool { return pl.Attrs[key] == nil })
}

func tagOf(pl pipeline.Pipeline) (k keptTag) {
	_ = json.Unmarshal(pl.Attrs[key], &k) // written by this package
	return k
}

func keptOf(p project.Project) (k kept) {
	if b := p.Attrs[key]; b != nil {
		_ = json.Unmarshal(b, &k) // written by this package
	}
	return k
}

func (h *Handlers) answerRepository(w http.ResponseWriter, r *http.Request, by access.Actor, p project.Project, status int) error {
	k := keptOf(p)
	a := repositoryJSON{
		Namespace: p.Domain, LogoFile: "/static/images/user/default-logo.png", RepoPath: p.Domain + "/" + p.Name, RepoName: p.Name,
		Description: k.Description, FullDescription: k.FullDescription, CreatedBy: h.username(r, p.CreatedBy), CreatedAt: api.Time(p.Created),
		UpdatedAt: api.Time(p.Updated), IsPublic: p.Public, IsAutomated: k.Config != nil,
	}
	repos, err := h.Images.Repositories(r.Context(), by, p.Workspace)
	if err != nil && !errdefs.IsPermissionDenied(err) {
		return err
	}
	for _, i := range repos {
		if i.Name == a.RepoPath {
			a.Download, a.Upload, a.PulledAt, a.PushedAt = i.Pulls, i.Pushes, api.Time(i.Pulled), api.Time(i.Pushed)
		}
	}
	if k.Config != nil {
		if a.BuildConfig, err = h.config(r, by, p, *k.Config); err != nil {
			return err
		}
	}
	return api.JSON(w, status, a)
}

func (h *Handlers) config(r *http.Request, by access.Actor, p project.Project, c keptConfig) (*buildConfigJSON, error) {
	pls, err := h.tagPipelines(r.Context(), by, p.ID)
	if err != nil {
		return nil, err
	}
	a := &buildConfigJSON{
		ID: p.Number, DockerRepoPath: p.Domain + "/" + p.Name, CodeRepoClient: c.Client, CodeRepoPath: c.Path, CodeRepoPublicKey: c.PublicKey,
		CreatedBy: h.username(r, c.CreatedBy), BuildNode: c.BuildNode, EmailEnabled: c.Email, CodeRepoPathURL: c.url(""), DeployURL: c.deploy(), TagConfigs: []tagConfigJSON{},
	}
	if c.WebhookCode != "" {
		a.CodeRepoWebhookCode = &c.WebhookCode
	}
	for _, pl := range pls {
		k := tagOf(pl)
		a.TagConfigs = append(a.TagConfigs, tagConfigJSON{
			ID: int64(pl.ID), DockerBuildConfigID: p.Number, DockerRepoTag: k.Tag, DockerfileLocation: k.Dockerfile, CodeRepoType: k.RefType,
			CodeRepoTypeValue: k.Ref, IsActive: k.Active, VersionTagging: k.VersionTagging, BuildContextPath: k.Context, BuildCacheEnabled: k.Cache,
		})
	}
	return a, nil
}

// url is a page of the forge: the repository, or what suffix adds to it.
func (c keptConfig) url(suffix string) *string {
	s := c.Path
	if f, ok := forges[c.Client]; ok {
		s = f.base + c.Path + suffix
	} else if suffix != "" || !strings.HasPrefix(s, "http") {
		return nil
	}
	return &s
}

func (c keptConfig) deploy() *string {
	if f := forges[c.Client]; f.keys != "" {
		return c.url(f.keys)
	}
	return nil
}

// putBuildConfig makes the tag configs those of the body: one with an id is
// changed, one without is added, others go.
func (h *Handlers) putBuildConfig(w http.ResponseWriter, r *http.Request, by access.Actor) error {
	p, err := h.find(r, by, r.PathValue("namespace"), r.PathValue("repo"))
	if err != nil {
		return err
	}
	if keptOf(p).Config == nil {
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("repository %s/%s has no build configuration", p.Domain, p.Name))
	}
	var b buildConfigBody
	if err := api.Decode(w, r, &b); err != nil {
		return err
	}
	err = h.Pipelines.Together(r.Context(), by, p.ID, func(all *pipeline.Batch) error {
		err := b.put(all)
		p = all.Project()
		return err
	})
	if err != nil {
		return err
	}
	c, err := h.config(r, by, p, *keptOf(p).Config)
	if err != nil {
		return err
	}
	return api.JSON(w, http.StatusOK, c)
}

// put checks a configuration against what there is and makes it true.
func (c *buildConfigBody) put(all *pipeline.Batch) error {
	list, err := all.List()
	if err != nil {
		return err
	}
	have := onlyTags(list)
	p := all.Project()
	k := keptOf(p)
	bad := &project.Invalid{}
	tags := c.tags("", bad)
	c.later("", bad)
	c.same(*k.Config, bad)
	given := map[int64]bool{}
	for i, t := range c.TagConfigs {
		if t.ID == nil {
			continue
		}
		if given[*t.ID] || !slices.ContainsFunc(have, func(pl pipeline.Pipeline) bool { return int64(pl.ID) == *t.ID }) {
			bad.Add(field("tag_configs", i)+".id", "unknown", fmt.Sprintf("%d is no tag config of this repository, or is there twice", *t.ID))
		}
		given[*t.ID] = true
		if t.DockerBuildConfigID != nil && *t.DockerBuildConfigID != p.Number {
			bad.Add(field("tag_configs", i)+".docker_build_config_id", "conflict", fmt.Sprintf("must be %d, or be left out", p.Number))
		}
	}
	if err := bad.Err(); err != nil {
		return err
	}
	if c.BuildNode.Set && !c.BuildNode.Null {
		k.Config.BuildNode = c.BuildNode.V
	}
	if err := all.ChangeProject(project.Change{Attrs: attrsOf(k)}); err != nil {
		return err
	}
	// Removals first: a new tag config may take the name of an old one.
	for _, pl := range have {
		if !given[int64(pl.ID)] {
			if err := all.Delete(pl.ID); err != nil {
				return err
			}
		}
	}
	for i, t := range tags {
		if id := c.TagConfigs[i].ID; id != nil {
			err = t.change(all, *k.Config, pipeline.ID(*id))
		} else {
			err = t.make(all, *k.Config)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// change edits the pipeline's own fields and its build action; what people
// added to it stays.
func (k keptTag) change(all *pipeline.Batch, c keptConfig, id pipeline.ID) error {
	k.Config = c
	err := all.Update(id, func(p *pipeline.Pipeline) error {
		p.Name = k.Tag
		if p.Attrs == nil {
			p.Attrs = map[string]json.RawMessage{}
		}
		p.Attrs[key] = attrsOf(k)[key]
		return nil
	})
	if err != nil {
		return err
	}
	is := func(a pipeline.Action) bool { return a.Build != nil && a.Build.Archive }
	found, err := all.UpdateAction(id, is, func(a *pipeline.Action) error {
		b := k.action().Build
		a.Build.Dockerfile, a.Build.Context, a.Build.Tag, a.Build.NoCache = b.Dockerfile, b.Context, b.Tag, b.NoCache
		return nil
	})
	if err != nil || found {
		return err
	}
	return all.CreateAction(id, k.action())
}
