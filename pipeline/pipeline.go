package pipeline

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"slipway/engine"
	"slipway/project"
	"slipway/secret"
)

// ID is the server-wide number of a pipeline.
type ID int64

// ActionID is the server-wide number of an action.
type ActionID int64

// ExecutionID is the UUID of an execution.
type ExecutionID string

// Owner is who the file system of a pipeline belongs to in the engine.
func (i ID) Owner() engine.Owner {
	return engine.Owner("pipeline/" + strconv.FormatInt(int64(i), 10))
}

// Volume is the file system of a pipeline.
func (i ID) Volume() string { return "fs-" + strconv.FormatInt(int64(i), 10) }

// Owner is who the runs of an execution belong to in the engine.
func (i ExecutionID) Owner() engine.Owner { return engine.Owner("execution/" + string(i)) }

// Status is a state of an execution or of one of its actions.
type Status string

// States.
const (
	Initial     Status = "INITIAL"
	Enqueued    Status = "ENQUEUED"
	InProgress  Status = "INPROGRESS"
	Terminating Status = "TERMINATING"
	Successful  Status = "SUCCESSFUL"
	Failed      Status = "FAILED"
	Terminated  Status = "TERMINATED"
	Skipped     Status = "SKIPPED"
	NotExecuted Status = "NOT_EXECUTED"
	// WaitingForApply and WaitingForVariables are told of what is InProgress or Enqueued, see Shown.
	WaitingForApply     Status = "WAITING_FOR_APPLY"
	WaitingForVariables Status = "WAITING_FOR_VARIABLES"
)

// Ended tells whether nothing will happen any more.
func (s Status) Ended() bool {
	switch s {
	case Successful, Failed, Terminated, Skipped, NotExecuted:
		return true
	}
	return false
}

// Priority orders executions that wait.
type Priority string

// Priorities; "" is Normal.
const (
	Low    Priority = "LOW"
	Normal Priority = "NORMAL"
	High   Priority = "HIGH"
)

// Event kinds that a pipeline may ask for.
const (
	EventPush        = "PUSH"
	EventCreateRef   = "CREATE_REF"
	EventDeleteRef   = "DELETE_REF"
	EventPullRequest = "PULL_REQUEST"
	EventSchedule    = "SCHEDULE"
	EventWebhook     = "WEBHOOK"
)

// EventRule is one thing that starts a pipeline.
type EventRule struct {
	Type     string
	Refs     []string
	Events   []string // of pull requests
	Branches []string

	// Of EventSchedule: Cron with Timezone, or StartDate with Delay.
	Cron      string // minute, hour, day of month, month, day of week
	Timezone  string // "" is UTC
	StartDate string // RFC 3339
	Delay     int    // minutes
	TOTP      bool   // of EventWebhook; refused

	// Rest holds the members that only the dialect knows (prefix, whitelist), as
	// sent.
	Rest json.RawMessage
}

// moved takes out of Rest what was kept there before it had an effect.
func (e *EventRule) moved() {
	if len(e.Rest) == 0 || e.Cron != "" || e.StartDate != "" {
		return
	}
	var old struct {
		Cron      string `json:"cron"`
		Timezone  string `json:"timezone"`
		StartDate string `json:"start_date"`
		Delay     int    `json:"delay"`
		TOTP      bool   `json:"totp"`
	}
	if json.Unmarshal(e.Rest, &old) == nil {
		e.Cron, e.Timezone, e.StartDate, e.Delay, e.TOTP = old.Cron, old.Timezone, old.StartDate, old.Delay, old.TOTP
	}
}

// Pipeline is a list of actions and what starts them.
type Pipeline struct {
	ID         ID
	Project    project.ID
	Workspace  string // UUID
	Name       string
	Identifier string // unique in the project; made from the name
	Created    time.Time
	CreatedBy  int64

	On         string // CLICK, EVENT, SCHEDULE as given, or "": derived (Trigger)
	Refs       []string
	Events     []EventRule
	Conditions []Condition
	Priority   Priority
	Disabled   bool
	Reason     string // why it is disabled
	Paused     bool   // the clock does not start it

	FromScratch        bool // every run begins with an empty file system
	ClearCache         bool // every run begins without what earlier runs left
	NoSkip             bool // a newer waiting run does not replace older ones
	Concurrent         bool
	CommentRequired    bool
	CloneDepth         int // commits; 0 is all
	FetchAllRefs       bool
	GitConfigRef       string     // NONE, FIXED, DYNAMIC
	GitConfig          *GitConfig `json:",omitempty"` // of FIXED
	DefinitionSource   string     // LOCAL, REMOTE
	Remote             Remote     `json:",omitzero"`
	DefinedBy          int64      `json:",omitempty"` // the user who said where its definition is
	CPU                string     // X64, ARM
	Worker             string
	CacheScope         string // PIPELINE, PROJECT, WORKSPACE
	Loop               []string
	Permissions        *Permissions
	VariablesByYAML    bool
	PermissionsByYAML  bool
	MessageTemplate    string
	GitChangesetBase   string
	FilesChangesetBase string
	PauseAfterFailures int
	PauseAfterGiven    bool // PauseAfterFailures was given

	// Said is what the file with the definition says of when the pipeline starts; nil
	// if it is in none, or was not read yet.
	Said *Said `json:",omitempty"`

	Variables []Variable
	// Attrs holds what one dialect knows and no rule reads, keyed by dialect.
	Attrs map[string]json.RawMessage

	// Read only.
	LastStatus   Status // of the last execution; Initial without one
	LastRevision string // of the last successful execution
}

// Trigger is what starts the pipeline in one word: SCHEDULE, EVENT or CLICK.
func (p Pipeline) Trigger() string {
	if p.On != "" {
		return p.On
	}
	on := "CLICK"
	for _, e := range p.Events {
		if e.Type == EventSchedule {
			return "SCHEDULE"
		}
		on = "EVENT"
	}
	return on
}

// Permissions narrow what members may do with a pipeline or an action.
type Permissions struct {
	Others string
	Users  []Grant
	Groups []Grant
}

// Grant is the right of one user or group.
type Grant struct {
	ID    int64
	Level string
}

// Empty tells whether the permissions change nothing.
func (p *Permissions) Empty() bool {
	return p == nil || (p.Others == "" || p.Others == "DEFAULT") && len(p.Users) == 0 && len(p.Groups) == 0
}

// Variable is a value that is written into a pipeline, an action or the start
// of an execution.
type Variable struct {
	Key         string
	Value       string // secret.Encrypted when it is read through the front door and is secret
	Type        string // "" is VAR
	Description string
	Encrypted   bool

	Settable        bool
	RunOnlySettable bool
	InitPath        string
	Defaults        string
	FilePlace       string // NONE or CONTAINER
	FilePath        string
	FileMode        string
	Password        string
	Passphrase      string
	KeyIdentifier   string

	// First is what a file of a repository says of a settable variable: it keeps
	// what runs gave it until the file says something else.
	First string `json:",omitempty"`
}

func (v Variable) isVar() bool { return v.Type == "" || v.Type == "VAR" }

// Secret tells whether the value must not be shown.
func (v Variable) Secret() bool { return v.Encrypted || v.Type == "SSH_KEY" || v.Type == "GPG_KEY" }

var variableTypes = map[string]bool{
	"": true, secret.Var: true, secret.File: true, secret.SSHKey: true, secret.PublicKey: true, secret.GPGKey: true,
}

const (
	maxKey      = 255
	maxVariable = 1 << 20 // bytes of a value
	maxText     = 4096
)

var variableKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func validateVariables(vs []Variable, inv *project.Invalid) {
	for i, v := range vs {
		at := "variables." + strconv.Itoa(i)
		switch {
		case v.Key != "" && slices.ContainsFunc(vs[:i], func(w Variable) bool { return w.Key == v.Key }):
			inv.Add(at+".key", "conflict", v.Key+" is there twice")
		case v.Key == "":
			inv.Add(at+".key", "required", "is required")
		case !variableKey.MatchString(v.Key):
			inv.Add(at+".key", "format", "must be letters, digits and _, not beginning with a digit")
		case len(v.Key) > maxKey:
			inv.Add(at+".key", "maximum", fmt.Sprintf("must be at most %d characters", maxKey))
		}
		switch {
		case v.Type == "IOS_KEYCHAIN", v.Type == "IOS_PROVISION_PROFILES":
			inv.Add(at+".type", "unsupported", "is not supported: nothing of iOS is built here")
		case !variableTypes[v.Type]:
			inv.Add(at+".type", "enum", "must be one of VAR, FILE, SSH_KEY, SSH_PUBLIC_KEY, GPG_KEY")
		case !v.isVar() && (v.Settable || v.RunOnlySettable):
			inv.Add(at+".settable", "conflict", "goes with type VAR alone: a file cannot be exported")
		}
		for _, f := range []struct{ name, value string }{
			{"init_path", v.InitPath}, {"defaults", v.Defaults}, {"password", v.Password}, {"passphrase", v.Passphrase}, {"key_identifier", v.KeyIdentifier},
		} {
			if f.value != "" {
				inv.Add(at+"."+f.name, "unsupported", secret.Unobeyed(f.name))
			}
		}
		inv.NoNUL(at+".value", v.Value, at+".value", v.First)
		inv.Text(at+".description", v.Description, maxText)
		inv.Text(at+".file_path", v.FilePath, maxText)
		if len(v.Value) > maxVariable {
			inv.Add(at+".value", "maximum", fmt.Sprintf("must be at most %d bytes", maxVariable))
		} else if v.isVar() && tooLong(v.Key+"="+v.Value) {
			inv.Add(at+".value", "maximum", fmt.Sprintf("must be at most %d bytes with the key and =: no program can be started with more; a FILE may be longer", secret.MaxWord))
		}
		v.validatePlace(at, inv)
	}
}

// validatePlace finds a file that would be nowhere without anybody having said
// so.
func (v Variable) validatePlace(at string, inv *project.Invalid) {
	switch {
	case v.FilePlace == "" && !v.isVar() && variableTypes[v.Type]:
		inv.Add(at+".file_place", "required", "must be CONTAINER for a "+v.Type+", with file_path; with NONE no container has it")
	case v.FilePlace == "" && v.FilePath == "", v.FilePlace == secret.None:
	case v.isVar():
		inv.Add(at+".file_place", "conflict", "a VAR is no file: type must be FILE")
	case v.FilePlace != secret.Container:
		inv.Add(at+".file_place", "enum", "must be NONE or CONTAINER")
	case v.FilePath == "":
		inv.Add(at+".file_path", "required", "must say where the file goes in the container")
	case !path.IsAbs(v.FilePath) && !strings.HasPrefix(v.FilePath, "~/"):
		inv.Add(at+".file_path", "format", "must begin with / or ~/")
	}
	if v.FileMode != "" && !secret.IsMode(v.FileMode) {
		inv.Add(at+".file_chmod", "format", "must be octal, like 600")
	}
}

// Validate notes every bad field in inv.
func (p Pipeline) Validate(inv *project.Invalid) {
	if strings.TrimSpace(p.Name) == "" {
		inv.Add("name", "required", "is required")
	}
	inv.NoNUL("name", p.Name, "identifier", p.Identifier, "disabled_reason", p.Reason)
	notLonger(inv, nameMax, "name", p.Name)
	notLonger(inv, textMax, "disabled_reason", p.Reason, "execution_message_template", p.MessageTemplate, "worker", p.Worker)
	for i, ref := range p.Refs {
		inv.Text("refs."+strconv.Itoa(i), ref, textMax)
	}
	validateLoop(inv, p.Loop)
	oneOf(inv, "on", p.On, "", "CLICK", "EVENT", "SCHEDULE")
	oneOf(inv, "priority", string(p.Priority), "", "LOW", "NORMAL", "HIGH")
	oneOf(inv, "git_config_ref", p.GitConfigRef, "", "NONE", "FIXED", "DYNAMIC")
	oneOf(inv, "definition_source", p.DefinitionSource, "", "LOCAL", "REMOTE")
	oneOf(inv, "cpu", p.CPU, "", "X64", "ARM")
	oneOf(inv, "cache_scope", p.CacheScope, "", scopePipeline, scopeProject, scopeWorkspace)
	oneOf(inv, "git_changeset_base", p.GitChangesetBase, "", "LATEST_RUN", "LATEST_RUN_MATCHING_REF", "PULL_REQUEST")
	oneOf(inv, "filesystem_changeset_base", p.FilesChangesetBase, "", "DATE_MODIFIED", "CONTENTS")
	p.validateOrigin(inv)
	if p.CloneDepth < 0 {
		inv.Add("clone_depth", "minimum", "must not be negative")
	}
	if p.PauseAfterFailures < 0 {
		inv.Add("pause_on_repeated_failures", "minimum", "must not be negative")
	}
	validateEvents(p.Events, inv)
	validateConditions(p.Conditions, inv)
	validatePermissions(p.Permissions, inv)
	validateVariables(p.Variables, inv)
}

func oneOf(inv *project.Invalid, path, v string, words ...string) {
	for _, w := range words {
		if v == w {
			return
		}
	}
	var known []string
	for _, w := range words {
		if w != "" {
			known = append(known, w)
		}
	}
	inv.Add(path, "enum", "must be one of "+strings.Join(known, ", "))
}

func validatePermissions(p *Permissions, inv *project.Invalid) {
	if p == nil {
		return
	}
	levels := []string{"", "DEFAULT", "DENIED", "ALLOWED", "READ_ONLY", "RUN_ONLY", "READ_WRITE"}
	oneOf(inv, "permissions.others", p.Others, levels...)
	for i, g := range p.Users {
		oneOf(inv, "permissions.users."+strconv.Itoa(i)+".access_level", g.Level, levels...)
	}
	for i, g := range p.Groups {
		oneOf(inv, "permissions.groups."+strconv.Itoa(i)+".access_level", g.Level, levels...)
	}
}
