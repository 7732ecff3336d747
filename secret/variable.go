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
	Workspace   string     // UUID, always set
	Project     project.ID // or ""
	Environment string     // UUID or ""; one who has it has no pipeline
	Pipeline    int64      // or 0
	Action      int64      // or 0
}

// place is the narrowest set field in one word.
func (s Scope) place() string {
	switch {
	case s.Action != 0:
		return fmt.Sprintf("action/%d", s.Action)
	case s.Pipeline != 0:
		return fmt.Sprintf("pipeline/%d", s.Pipeline)
	case s.Environment != "":
		return "environment/" + s.Environment
	case s.Project != "":
		return "project/" + string(s.Project)
	}
	return "workspace"
}

// places are those whose variables hold at s, widest first.
func (s Scope) places() []string {
	l := []string{"workspace"}
	for _, n := range []Scope{{Project: s.Project}, {Environment: s.Environment}, {Pipeline: s.Pipeline}, {Action: s.Action}} {
		if p := n.place(); p != "workspace" {
			l = append(l, p)
		}
	}
	return l
}

// Types of variables.
const (
	Var       = "VAR"
	File      = "FILE"
	SSHKey    = "SSH_KEY"
	PublicKey = "SSH_PUBLIC_KEY"
	GPGKey    = "GPG_KEY"
)

// Places of files.
const (
	None      = "NONE"
	Container = "CONTAINER"
)

// Variable is a named value for pipelines.
type Variable struct {
	ID              int64
	Scope           Scope
	Key             string
	Value           string // Encrypted when it is read through the front door and is encrypted
	Type            string // "": VAR
	Description     string
	Encrypted       bool   // always, of an SSH_KEY and a GPG_KEY
	Settable        bool   // commands may give it another value, for later actions and later runs
	RunOnlySettable bool   // or for the later actions of their own run alone
	FilePlace       string // NONE or CONTAINER; "": NONE, of a VAR alone
	FilePath        string
	FileMode        string // octal, "": 600
	Updated         time.Time

	// Public tells of an SSH_KEY what may be known of it; read only.
	Public Public
}

// MaxWord is how long an argument of a program may be, and a variable of its
// environment with its name and the =, in bytes: the kernel starts none with a
// longer one.
const MaxWord = 128<<10 - 1

const (
	maxValue = 1 << 20 // bytes
	maxText  = 4096
)

// maxDescription is that of logins, too.
const maxDescription = maxText

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
	v.Encrypted = v.Encrypted || secretType(v.Type)
	return v
}

// IsMode tells whether a text is the mode of a file, like 600.
func IsMode(s string) bool { return modes.MatchString(s) }

// Unobeyed is what is said of members of a variable that could have no effect
// here: init_path, defaults, password, passphrase and key_identifier.
func Unobeyed(member string) string {
	switch member {
	case "init_path", "defaults":
		return "is not supported: it says what people may choose from when a SET_VARIABLES action asks them for a value, and there is none here"
	case "password":
		return "is not supported: it opens a certificate for a keychain of iOS, and nothing of iOS is built here"
	}
	return "is not supported: a key is the file that it is in a container, and no agent there is given it; have gpg or ssh-add in the commands, with a variable of its own for this"
}

func secretType(t string) bool { return t == SSHKey || t == GPGKey }

// Validate finds all that is wrong, paths in the words of the dialect that has
// variables.
func (v Variable) Validate() error {
	v = v.whole()
	var bad project.Invalid
	switch {
	case v.Key == "":
		bad.Add("key", "required", "must not be empty")
	case len(v.Key) > 255:
		bad.Add("key", "maximum", "must be at most 255 characters")
	case !keys.MatchString(v.Key):
		bad.Add("key", "format", "must be letters, digits and _, and not begin with a digit")
	}
	known := true
	switch v.Type {
	case Var, File, SSHKey, PublicKey, GPGKey:
	case "IOS_KEYCHAIN", "IOS_PROVISION_PROFILES":
		known = false
		bad.Add("type", "unsupported", "is not supported: nothing of iOS is built here")
	default:
		known = false
		bad.Add("type", "enum", "must be one of VAR, FILE, SSH_KEY, SSH_PUBLIC_KEY, GPG_KEY")
	}
	if known && v.Type != Var {
		if v.Settable {
			bad.Add("settable", "conflict", "goes with type VAR alone: a file cannot be exported")
		}
		if v.RunOnlySettable {
			bad.Add("run_only_settable", "conflict", "goes with type VAR alone: a file cannot be exported")
		}
	}
	switch {
	case len(v.Value) > maxValue:
		bad.Add("value", "maximum", fmt.Sprintf("must be at most %d bytes", maxValue))
	case v.Type == Var && len(v.Key)+1+len(v.Value) > MaxWord:
		bad.Add("value", "maximum", fmt.Sprintf("must be at most %d bytes with the key and =: no program can be started with more; a FILE may be longer", MaxWord))
	case !utf8.ValidString(v.Value) || strings.ContainsRune(v.Value, 0):
		bad.Add("value", "format", "must be text")
	case v.Type == SSHKey && v.Value != Encrypted: // which is another one
		if _, err := publicOf(v.Value); err != nil {
			bad.Add("value", "format", "must be a private key in PEM format")
		}
	}
	bad.Text("description", v.Description, maxDescription)
	v.validatePlace(known, &bad)
	return bad.Err()
}

func (v Variable) validatePlace(known bool, bad *project.Invalid) {
	switch {
	case v.FilePlace == "" && known && v.Type != Var:
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
	bad.Text("file_path", v.FilePath, maxText)
	if v.FileMode != "" && !IsMode(v.FileMode) {
		bad.Add("file_chmod", "format", "must be octal, like 600")
	}
}

// hidden is how a variable leaves the front door.
func (v Variable) hidden() Variable {
	if v.Type == SSHKey {
		v.Public, _ = publicOf(v.Value) // an older one may be none
	}
	if v.Encrypted {
		v.Value = Encrypted
	}
	return v
}
