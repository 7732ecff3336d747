package pipeline

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"slipway/project"
	"slipway/secret"
)

// Bounds of an action's time.
const (
	DefaultTimeout = 90 * time.Minute
	MaxTimeout     = 24 * time.Hour
)

// When says at which stage of an execution an action runs.
type When string

// Stages; "" is OnEvery.
const (
	OnEvery          When = "ON_EVERY_EXECUTION"
	OnSuccess        When = "ON_SUCCESS"
	OnFailure        When = "ON_FAILURE"
	OnBackToSuccess  When = "ON_BACK_TO_SUCCESS"
	OnWarning        When = "ON_WARNING"
	OnWaitForApprove When = "ON_WAIT_FOR_APPROVE"
	OnTerminate      When = "ON_TERMINATE"
)

// Whens lists all stages.
func Whens() []When {
	return []When{OnEvery, OnSuccess, OnFailure, OnBackToSuccess, OnWarning, OnWaitForApprove, OnTerminate}
}

// RunNext says how an action goes together with the next one.
type RunNext string

// Ways; "" is WaitOnSuccess.
const (
	WaitOnSuccess  RunNext = "WAIT_ON_SUCCESS"
	InSoftParallel RunNext = "IN_SOFT_PARALLEL"
	InHardParallel RunNext = "IN_HARD_PARALLEL"
)

// Action is one step of a pipeline. Its kind is the field that is set, Build or
// Run.
type Action struct {
	ID       ActionID
	Pipeline ID
	Name     string

	When             When
	FirstFailureOnly bool // with OnFailure: only at the first failure of a series
	Conditions       []Condition
	Approval         bool     // it waits until somebody who may run it says that it may be run
	Asks             []string `json:",omitempty"` // keys of variables: it waits until somebody who may run it gives them
	RunNext          RunNext
	Variables        []Variable
	Disabled         bool
	IgnoreErrors     bool
	Timeout          time.Duration // 0: DefaultTimeout
	Retries          int
	RetryInterval    time.Duration
	Loop             []string
	Permissions      *Permissions

	Build *Build // exactly one of the two
	Run   *Run

	// Attrs holds what one dialect knows and no rule reads, keyed by dialect.
	Attrs map[string]json.RawMessage

	// Read only.
	LastStatus   Status // Initial before the first run
	LastRevision string // of its last success
}

// RegistryKind is a kind of somebody's registry.
type RegistryKind string

// Kinds; "" is derived by Registry.Effective.
const (
	RegistryNone         RegistryKind = "NONE"
	DockerHub            RegistryKind = "DOCKER_HUB"
	AmazonECR            RegistryKind = "AMAZON_ECR"
	GoogleGCR            RegistryKind = "GOOGLE_GCR"
	GoogleArtifact       RegistryKind = "GOOGLE_ARTIFACT_REGISTRY"
	GitHubRegistry       RegistryKind = "GIT_HUB_CONTAINER_REGISTRY"
	OtherRegistry        RegistryKind = "OTHER"
	PackageRegistry      RegistryKind = "PACKAGE_REGISTRY"
	ArtifactRegistry     RegistryKind = "ARTIFACT_REGISTRY"
	DigitalOceanRegistry RegistryKind = "DIGITAL_OCEAN_CONTAINER_REGISTRY"
)

// RegistryKinds lists all kinds.
func RegistryKinds() []RegistryKind {
	return []RegistryKind{
		RegistryNone, DockerHub, AmazonECR, GoogleGCR, GoogleArtifact, GitHubRegistry, OtherRegistry,
		PackageRegistry, ArtifactRegistry, DigitalOceanRegistry,
	}
}

// Registry is where an image comes from or goes to, beside the own registry.
type Registry struct {
	Kind        RegistryKind
	URL         string // host[:port], with or without a scheme
	Username    string
	Password    string // secret.Encrypted when it is read through the front door
	Insecure    bool
	Region      string
	Integration *Integration
}

// Integration names an integration in the words it was given.
type Integration struct{ HashID, Identifier, ID string }

// Effective is the kind that holds: the one given, or what the other fields
// say.
func (r Registry) Effective() RegistryKind {
	switch {
	case r.Kind != "":
		return r.Kind
	case r.URL != "" || r.Username != "":
		return OtherRegistry
	}
	return RegistryNone
}

// ImageFrom names the build action whose result an action uses.
type ImageFrom struct {
	Use  bool     // use_image_from_action
	ID   ActionID // 0: the nearest build action before
	Name string
}

// Image locations; "" is derived.
const (
	LocationPublic  = "PUBLIC_REGISTRY"
	LocationPrivate = "PRIVATE_REGISTRY"
	LocationAction  = "ACTION"
	LocationPackage = "PACKAGE_REGISTRY"
)

// Build makes an image of the files of the pipeline.
type Build struct {
	Multi      bool   // a multi-platform build (an own kind in one dialect)
	Dockerfile string // path in the file system; "" is "Dockerfile"
	Context    string // directory in the file system; "" is all
	Target     string
	Platforms  string // comma list; "" is the host's
	Args       []string
	Secrets    []BuildSecret
	Pull       *bool // nil: true
	BuildKit   *bool // nil: true; there is no other builder
	Provenance string
	CacheMode  string
	KeepImages bool // do_not_prune_images
	Archive    bool // build from an archive of the commit, without .git and the pipeline's other files
	NoCache    bool

	// Image is what is taken instead of running a Dockerfile, with Location
	// LocationPublic and LocationPrivate, without a tag that of Tag.
	Image string

	Repository string // "" is the project's name
	Tag        string // comma list; "" is latest
	Versions   []string
	Package    string
	Registry   Registry

	// With Location or From the image is taken from there and no Dockerfile is
	// run.
	Location   string
	From       ImageFrom
	TargetPath string // no effect
}

// BuildSecret is one secret of a build: a path in the file system or the name
// of a variable.
type BuildSecret struct {
	ID    string
	Value string
	Type  string // FILE (also ""), ENV
}

// Run runs a container.
type Run struct {
	Image    string
	Tag      string
	Registry Registry
	Location string
	From     ImageFrom

	Commands   string // inline_commands
	Entrypoint string
	User       string
	NoMount    bool     // mount_filesystem_disable
	Mounts     []string // "path in the file system:path in the container"
	ExportPath string
}

// Registry gives the registry part, whatever the kind.
func (a *Action) registry() *Registry {
	switch {
	case a.Build != nil:
		return &a.Build.Registry
	case a.Run != nil:
		return &a.Run.Registry
	}
	return &Registry{}
}

// imageFrom gives which build's result the action uses, or nil.
func (a Action) imageFrom() *ImageFrom {
	switch {
	case a.Run != nil && (a.Run.From.Use || a.Run.Location == LocationAction):
		return &a.Run.From
	case a.Build != nil && (a.Build.From.Use || a.Build.Location == LocationAction):
		return &a.Build.From
	}
	return nil
}

// Validate notes every bad field in inv; paths are the words of the wire.
func (a Action) Validate(inv *project.Invalid) {
	if strings.TrimSpace(a.Name) == "" {
		inv.Add("name", "required", "is required")
	}
	notLonger(inv, nameMax, "name", a.Name)
	inv.NoNUL("name", a.Name)
	validateLoop(inv, a.Loop)
	whens := []string{""}
	for _, w := range Whens() {
		whens = append(whens, string(w))
	}
	oneOf(inv, "trigger_time", string(a.When), whens...)
	oneOf(inv, "run_next", string(a.RunNext), "", string(WaitOnSuccess), string(InSoftParallel), string(InHardParallel))
	if a.Approval && (a.When == OnWaitForApprove || a.When == OnTerminate) {
		inv.Add("wait_for_approval", "conflict", "does not go with trigger_time "+string(a.When))
	}
	a.validateAsked(inv)
	if a.FirstFailureOnly && a.When != OnFailure {
		inv.Add("run_only_on_first_failure", "conflict", "goes only with trigger_time ON_FAILURE")
	}
	switch {
	case a.Timeout < 0:
		inv.Add("timeout", "minimum", "must not be negative")
	case a.Timeout > MaxTimeout:
		inv.Add("timeout", "maximum", "must be at most 86400 seconds")
	}
	if a.Retries < 0 || a.Retries > 100 {
		inv.Add("retry_count", "maximum", "must be 0 to 100")
	}
	if a.RetryInterval < 0 || a.RetryInterval > MaxTimeout {
		inv.Add("retry_interval", "maximum", "must be 0 to 86400 seconds")
	}
	validateConditions(a.Conditions, inv)
	validatePermissions(a.Permissions, inv)
	validateVariables(a.Variables, inv)
	switch {
	case (a.Build == nil) == (a.Run == nil):
		inv.Add("type", "required", "is required")
	case a.Build != nil:
		a.Build.validate(inv)
	default:
		a.Run.validate(inv)
	}
}

func (r Registry) validate(inv *project.Invalid) {
	kinds := []string{""}
	for _, k := range RegistryKinds() {
		kinds = append(kinds, string(k))
	}
	oneOf(inv, "docker_registry", string(r.Kind), kinds...)
	switch {
	case r.Username != "" && r.Password == "":
		inv.Add("password", "required", "is required with login")
	case r.Username == "" && r.Password != "":
		inv.Add("login", "required", "is required with password")
	}
	if r.Effective() == OtherRegistry && r.Kind == OtherRegistry && r.URL == "" {
		inv.Add("registry", "required", "is required with docker_registry OTHER")
	}
	if r.Kind == GoogleGCR && r.URL != "" {
		oneOf(inv, "registry", strings.TrimPrefix(r.URL, "https://"), "gcr.io", "us.gcr.io", "eu.gcr.io", "asia.gcr.io")
	}
	inv.NoNUL("login", r.Username, "password", r.Password, "region", r.Region)
	if i := r.Integration; i != nil {
		inv.Text("integration.hash_id", i.HashID, 255)
		inv.Text("integration.identifier", i.Identifier, 255)
		inv.Text("integration.id", i.ID, 255)
	}
	if strings.ContainsFunc(r.URL, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		inv.Add("registry", "format", "must be a host, with or without a port")
	}
}

func (b Build) validate(inv *project.Invalid) {
	if !b.Multi && b.Dockerfile == "" {
		inv.Add("dockerfile_path", "required", "is required")
	}
	inv.NoNUL("dockerfile_path", b.Dockerfile, "context_path", b.Context, "target_stage", b.Target, "target_platform", b.Platforms,
		"docker_image_name", b.Image, "docker_image_tag", b.Tag, "repository", b.Repository, "package", b.Package, "target_path", b.TargetPath)
	paths(inv, "dockerfile_path", b.Dockerfile, "context_path", b.Context)
	tags(inv, "docker_image_tag", b.Tag, false)
	name(inv, "docker_image_name", b.Image)
	name(inv, "repository", b.Repository)
	name(inv, "package", b.Package)
	for i, v := range b.Versions {
		inv.NoNUL("versions."+strconv.Itoa(i), v)
		tags(inv, "versions."+strconv.Itoa(i), v, false)
	}
	for i, a := range b.Args {
		inv.NoNUL("build_args."+strconv.Itoa(i), a)
		if k, _, _ := strings.Cut(a, "="); strings.TrimSpace(k) == "" {
			inv.Add("build_args."+strconv.Itoa(i), "format", "must be KEY=value")
		}
	}
	for i, s := range b.Secrets {
		at := "secrets." + strconv.Itoa(i)
		if s.ID == "" {
			inv.Add(at+".id", "required", "is required")
		}
		if s.Value == "" {
			inv.Add(at+".value", "required", "is required")
		}
		inv.NoNUL(at+".id", s.ID, at+".value", s.Value)
		if s.Type != "ENV" {
			paths(inv, at+".value", s.Value)
		}
		oneOf(inv, at+".type", s.Type, "", "FILE", "ENV")
	}
	oneOf(inv, "provenance", b.Provenance, "", "NONE", "MIN", "MAX")
	oneOf(inv, "cache_mode", b.CacheMode, "", "MIN", "MAX")
	oneOf(inv, "image_location", b.Location, "", LocationPublic, LocationPrivate, LocationAction, LocationPackage)
	b.Registry.validate(inv)
}

func (r Run) validate(inv *project.Invalid) {
	from := r.From.Use || r.Location == LocationAction
	if r.Image == "" && !from {
		inv.Add("docker_image_name", "required", "is required")
	}
	if r.Tag == "" && !from {
		inv.Add("docker_image_tag", "required", "is required")
	}
	inv.NoNUL("docker_image_name", r.Image, "docker_image_tag", r.Tag, "inline_commands", r.Commands, "entrypoint", r.Entrypoint,
		"run_as_user", r.User, "export_container_path", r.ExportPath)
	paths(inv, "export_container_path", r.ExportPath)
	tags(inv, "docker_image_tag", r.Tag, true)
	name(inv, "docker_image_name", r.Image)
	if len(r.Commands) > maxCommands {
		inv.Add("inline_commands", "maximum", fmt.Sprintf("must be at most %d bytes", maxCommands))
	} else if entrypoint, command, _, err := r.argv(newValues()); err != nil && literal(r.Entrypoint+r.Commands) {
		at, what, _ := strings.Cut(err.Error(), ": ")
		inv.Add(at, "format", what)
	} else if err == nil { // what variables make of them is seen at the start
		command, _ = filed(entrypoint, command)
		for _, c := range []struct {
			at    string
			words []string
		}{{"entrypoint", entrypoint}, {"inline_commands", command}} {
			if slices.ContainsFunc(c.words, tooLong) {
				inv.Add(c.at, "maximum", fmt.Sprintf("must be at most %d bytes: no program can be started with more", secret.MaxWord))
			}
		}
	}
	for i, m := range r.Mounts {
		inv.NoNUL("volume_mappings."+strconv.Itoa(i), m)
		_, _, err := splitMapping(m)
		if err == nil && literal(m) {
			_, err = mapping(m, "")
		}
		if err != nil {
			inv.Add("volume_mappings."+strconv.Itoa(i), "format", err.Error())
		}
	}
	oneOf(inv, "image_location", r.Location, "", LocationPublic, LocationPrivate, LocationAction, LocationPackage)
	r.Registry.validate(inv)
}
