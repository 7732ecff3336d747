package alauda

import (
	"encoding/json"
	"strconv"

	"slipway/api"
	"slipway/project"
)

// key is under which the dialect's own fields are kept at a project or pipeline.
const key = "alauda"

// What clients may send. Fields that are read only are accepted and ignored,
// as they send back what they got.
type repositoryBody struct {
	RepoName        string           `json:"repo_name"`
	Namespace       string           `json:"namespace"`
	Description     string           `json:"description"`
	FullDescription string           `json:"full_description"`
	IsPublic        bool             `json:"is_public"`
	BuildConfig     *buildConfigBody `json:"build_config"`
}

type buildConfigBody struct {
	CodeRepoClient    string          `json:"code_repo_client"`
	CodeRepoNamespace string          `json:"code_repo_namespace"`
	CodeRepoName      string          `json:"code_repo_name"`
	CodeRepoCloneURL  string          `json:"code_repo_clone_url"`
	BuildNode         api.Opt[string] `json:"build_node"`
	EmailEnabled      api.Opt[bool]   `json:"email_enabled"`
	TagConfigs        []tagConfigBody `json:"tag_configs"`
}

type tagConfigBody struct {
	ID                  *int64 `json:"id"`
	DockerBuildConfigID *int64 `json:"docker_build_config_id"`
	CodeRepoType        string `json:"code_repo_type"`
	CodeRepoTypeValue   string `json:"code_repo_type_value"`
	DockerRepoTag       string `json:"docker_repo_tag"`
	DockerBuildTag      string `json:"docker_build_tag"` // an older name of docker_repo_tag
	BuildContextPath    string `json:"build_context_path"`
	DockerfileLocation  string `json:"dockerfile_location"`
	IsActive            bool   `json:"is_active"`
	BuildCacheEnabled   bool   `json:"build_cache_enabled"`
	VersionTagging      *int   `json:"version_tagging"`
	IsVersionTagging    bool   `json:"is_version_tagging"` // of early clients
}

type startBody struct {
	Namespace    string  `json:"namespace"`
	RepoName     string  `json:"repo_name"`
	Tag          string  `json:"tag"`
	CodeCommitID *string `json:"code_commit_id"`
	CodeRepoPath *string `json:"code_repo_path"`
}

// What clients get.
type repositoryJSON struct {
	RepoStarredCount int              `json:"repo_starred_count"`
	IsRepoStarred    bool             `json:"is_repo_starred"`
	Namespace        string           `json:"namespace"`
	LogoFile         string           `json:"logo_file"`
	RepoPath         string           `json:"repo_path"`
	RepoName         string           `json:"repo_name"`
	Description      string           `json:"description"`
	FullDescription  string           `json:"full_description"`
	CreatedBy        string           `json:"created_by"`
	CreatedAt        any              `json:"created_at"`
	UpdatedAt        any              `json:"updated_at"`
	IsPublic         bool             `json:"is_public"`
	IsAutomated      bool             `json:"is_automated"`
	Download         int64            `json:"download"`
	Upload           int64            `json:"upload"`
	PulledAt         any              `json:"pulled_at"`
	PushedAt         any              `json:"pushed_at"`
	BuildConfig      *buildConfigJSON `json:"build_config,omitempty"`
}

type buildConfigJSON struct {
	ID                  int64           `json:"id"`
	DockerRepoPath      string          `json:"docker_repo_path"`
	CodeRepoClient      string          `json:"code_repo_client"`
	CodeRepoPath        string          `json:"code_repo_path"`
	CodeRepoWebhookCode *string         `json:"code_repo_webhook_code"`
	CodeRepoPublicKey   string          `json:"code_repo_public_key"`
	CreatedBy           string          `json:"created_by"`
	BuildNode           string          `json:"build_node"`
	EmailEnabled        bool            `json:"email_enabled"`
	CodeRepoPathURL     *string         `json:"code_repo_path_url"`
	DeployURL           *string         `json:"deploy_url"`
	TagConfigs          []tagConfigJSON `json:"tag_configs"`
}

type tagConfigJSON struct {
	ID                  int64  `json:"id"`
	DockerBuildConfigID int64  `json:"docker_build_config_id"`
	DockerRepoTag       string `json:"docker_repo_tag"`
	DockerfileLocation  string `json:"dockerfile_location"`
	CodeRepoType        string `json:"code_repo_type"`
	CodeRepoTypeValue   string `json:"code_repo_type_value"`
	IsActive            bool   `json:"is_active"`
	VersionTagging      int    `json:"version_tagging"`
	BuildContextPath    string `json:"build_context_path"`
	BuildCacheEnabled   bool   `json:"build_cache_enabled"`
}

type buildJSON struct {
	BuildID              string  `json:"build_id"`
	CreatedAt            any     `json:"created_at"`
	StartedAt            any     `json:"started_at"`
	EndedAt              any     `json:"ended_at"`
	CodeHeadCommit       *string `json:"code_head_commit"`
	CodeRepoClient       string  `json:"code_repo_client"`
	CodeRepoPath         string  `json:"code_repo_path"`
	CodeRepoType         string  `json:"code_repo_type"`
	CodeRepoTypeValue    string  `json:"code_repo_type_value"`
	CreatedBy            string  `json:"created_by"`
	Detail               string  `json:"detail"`
	ImageID              *string `json:"image_id"`
	DockerRepoPath       string  `json:"docker_repo_path"`
	DockerRepoTag        string  `json:"docker_repo_tag"`
	DockerRepoVersionTag *string `json:"docker_repo_version_tag"`
	DockerfileLocation   string  `json:"dockerfile_location"`
	Status               string  `json:"status"`
	AutoCreated          bool    `json:"auto_created"`
	StepAt               int     `json:"step_at"`
	BuildNode            string  `json:"build_node"`
	BuildContextPath     string  `json:"build_context_path"`
	BuildCacheEnabled    bool    `json:"build_cache_enabled"`
	CodeRepoHTTPURL      *string `json:"code_repo_http_url"`
	CodeCommitHTTPURL    *string `json:"code_commit_http_url"`
	CodeRepoBranchURL    *string `json:"code_repo_branch_url"`
	IsRemovable          bool    `json:"is_removable"`
}

type logJSON struct {
	Message string `json:"message"`
	Level   string `json:"level"`
	Time    int64  `json:"time"`
}

// kept is what a project keeps for the dialect.
type kept struct {
	Description     string      `json:"description"`
	FullDescription string      `json:"full_description"`
	Config          *keptConfig `json:"config,omitempty"`
}

type keptConfig struct {
	Client      string `json:"client"`
	Path        string `json:"path"` // owner/name, or the clone URL without its login
	PublicKey   string `json:"public_key,omitempty"`
	WebhookCode string `json:"webhook_code,omitempty"`
	BuildNode   string `json:"build_node"`
	Email       bool   `json:"email"`
	CreatedBy   int64  `json:"created_by"`
}

// keptTag is what a pipeline keeps for the dialect: a tag config, and of which
// build config it is one.
type keptTag struct {
	Tag            string     `json:"tag"`
	RefType        string     `json:"ref_type"`
	Ref            string     `json:"ref"`
	Dockerfile     string     `json:"dockerfile"`
	Context        string     `json:"context"`
	Active         bool       `json:"active"`
	Cache          bool       `json:"cache"`
	VersionTagging int        `json:"version_tagging"`
	Config         keptConfig `json:"config"` // as it was when the tag config was last written
}

func attrsOf(v any) map[string]json.RawMessage {
	b, _ := json.Marshal(v) // of our own plain structs
	return map[string]json.RawMessage{key: b}
}

func (t tagConfigBody) versionTagging() int {
	switch {
	case t.VersionTagging != nil:
		return *t.VersionTagging
	case t.IsVersionTagging:
		return 1
	}
	return 0
}

// keep checks a tag config and fills its defaults.
func (t tagConfigBody) keep(path string, bad *project.Invalid) keptTag {
	k := keptTag{
		Tag: t.DockerRepoTag, RefType: t.CodeRepoType, Ref: t.CodeRepoTypeValue, Dockerfile: t.DockerfileLocation, Context: t.BuildContextPath,
		Active: t.IsActive, Cache: t.BuildCacheEnabled, VersionTagging: t.versionTagging(),
	}
	if k.Tag == "" {
		k.Tag = t.DockerBuildTag
	}
	if k.Context == "" {
		k.Context = "/"
	}
	if k.Dockerfile == "" {
		k.Dockerfile = k.Context
	}
	switch {
	case k.Tag == "":
		bad.Add(path+".docker_repo_tag", "required", "is required")
	case !validTag(k.Tag):
		bad.Add(path+".docker_repo_tag", "format", "must be letters, digits, _, . and -, at most 128, and begin with none of . and -")
	}
	if k.RefType != "branch" && k.RefType != "tag" {
		bad.Add(path+".code_repo_type", "enum", "must be branch or tag")
	}
	if k.Ref == "" {
		bad.Add(path+".code_repo_type_value", "required", "is required")
	}
	for _, f := range [][2]string{{"build_context_path", t.BuildContextPath}, {"dockerfile_location", t.DockerfileLocation}} {
		if f[1] != "" && f[1][0] != '/' {
			bad.Add(path+"."+f[0], "format", "must begin with /")
		}
		bad.NoNUL(path+"."+f[0], f[1])
	}
	if k.VersionTagging < 0 || k.VersionTagging > 2 {
		bad.Add(path+".version_tagging", "enum", "must be 0, 1 or 2")
	}
	return k
}

func validTag(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if c != '_' && c != '.' && c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}

func field(path string, i int) string { return path + "." + strconv.Itoa(i) }
