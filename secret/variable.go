package secret

import (
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"slipway/project"
)

// Encrypted stands for a secret value in every answer; sent back it means
// unchanged.
const Encrypted = "!encrypted"

// Scope is where a variable or login holds; the narrowest set field says.
type Scope struct {
	Workspace string     // UUID, always set
	Project   project.ID // or ""
	Pipeline  int64      // or 0
	Action    int64      // or 0
}

// place is the narrowest set field in one word.
func (s Scope) place() string {
	switch {
	case s.Action != 0:
		return fmt.Sprintf("action/%d", s.Action)
	case s.Pipeline != 0:
		return fmt.Sprintf("pipeline/%d", s.Pipeline)
	case s.Project != "":
		return "project/" + string(s.Project)
	}
	return "workspace"
}

// places are those whose variables hold at s, widest first.
func (s Scope) places() []string {
	l := []string{"workspace"}
	for _, n := range []Scope{{Project: s.Project}, {Pipeline: s.Pipeline}, {Action: s.Action}} {
		if p := n.place(); p != "workspace" {
			l = append(l, p)
		}
	}
	return l
}

// Types of variables.
const (
	Var    = "VAR"
	File   = "FILE"
	SSHKey = "SSH_KEY"
)

// Places of files.
const (
	None      = "NONE"
	Container = "CONTAINER"
)

// Variable is a named value for pipelines.
type Variable struct {
	ID          int64
	Scope       Scope
	Key         string
	Value       string // Encrypted when it is read through the front door and is encrypted
	Type        string // VAR, FILE, SSH_KEY; "": VAR
	Description string
	Encrypted   bool // always, of an SSH_KEY
	Settable    bool
	FilePlace   string // NONE or CONTAINER; "": NONE, of a VAR alone
	FilePath    string
	FileMode    string // octal, "": 600
	Updated     time.Time
}

// MaxWord is how long an argument of a program may be, and a variable of its
// environment with its name and the =, in bytes: the kernel starts none with a
// longer one.
const MaxWord = 128<<10 - 1

const (
	maxValue       = 256 << 10 // bytes
	maxDescription = 4096
)

var (
	keys  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	modes = regexp.MustCompile(`^0?[0-7]{3}$`)
)

// whole fills in what was left out.
func (v Variable) whole() Variable {
	if v.Type == "" {
		v.Type = Var
	}
	if v.FilePlace == "" && v.Type == Var {
		v.FilePlace = None
	}
	v.Encrypted = v.Encrypted || v.Type == SSHKey
	return v
}

// Validate finds all that is wrong, paths in the words of the dialect that has
// variables.
func (v Variable) Validate() error {
	var bad project.Invalid
	switch {
	case v.Key == "":
		bad.Add("key", "required", "must not be empty")
	case len(v.Key) > 255:
		bad.Add("key", "maximum", "must be at most 255 characters")
	case !keys.MatchString(v.Key):
		bad.Add("key", "format", "must be letters, digits and _, and not begin with a digit")
	}
	switch v.Type {
	case Var, File, SSHKey:
	case "SSH_PUBLIC_KEY", "GPG_KEY", "IOS_KEYCHAIN", "IOS_PROVISION_PROFILES":
		bad.Add("type", "unsupported", v.Type+" is not supported")
	default:
		bad.Add("type", "enum", "must be VAR, FILE or SSH_KEY")
	}
	switch {
	case len(v.Value) > maxValue:
		bad.Add("value", "maximum", fmt.Sprintf("must be at most %d bytes", maxValue))
	case v.Type == Var && len(v.Key)+1+len(v.Value) > MaxWord:
		bad.Add("value", "maximum", fmt.Sprintf("must be at most %d bytes with the key and =: no program can be started with more; a FILE may be longer", MaxWord))
	case !utf8.ValidString(v.Value) || strings.ContainsRune(v.Value, 0):
		bad.Add("value", "format", "must be text")
	}
	bad.Text("description", v.Description, maxDescription)
	switch {
	case v.FilePlace == "" && (v.Type == File || v.Type == SSHKey):
		bad.Add("file_place", "required", "must be CONTAINER, with file_path; with NONE no container has it")
	case v.FilePlace == "": // the type is wrong
	case v.FilePlace != None && v.FilePlace != Container:
		bad.Add("file_place", "enum", "must be NONE or CONTAINER")
	case v.FilePlace == Container && v.Type == Var:
		bad.Add("file_place", "conflict", "a VAR is no file")
	case v.FilePlace == Container && v.FilePath == "":
		bad.Add("file_path", "required", "must say where the file goes in the container")
	case v.FilePlace == Container && !path.IsAbs(v.FilePath) && !strings.HasPrefix(v.FilePath, "~/"):
		bad.Add("file_path", "format", "must begin with / or ~/")
	}
	bad.NoNUL("file_path", v.FilePath)
	if v.FileMode != "" && !modes.MatchString(v.FileMode) {
		bad.Add("file_chmod", "format", "must be octal, like 600")
	}
	return bad.Err()
}

// hidden is how a variable leaves the front door.
func (v Variable) hidden() Variable {
	if v.Encrypted {
		v.Value = Encrypted
	}
	return v
}
