package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"slipway/engine"
	"slipway/registry"
)

// grace is between the stop signal and SIGKILL.
const grace = 10 * time.Second

func (a Action) timeout() time.Duration {
	if a.Timeout > 0 {
		return min(a.Timeout, MaxTimeout)
	}
	return DefaultTimeout
}

// splitMapping takes "path in the file system:path in the container" apart.
func splitMapping(m string) (from, to string, err error) {
	from, to, ok := strings.Cut(m, ":")
	if !ok || from == "" || to == "" {
		return "", "", errors.New("must be <path in the file system>:<path in the container>")
	}
	if !strings.HasPrefix(to, "/") && !strings.HasPrefix(to, "$") {
		return "", "", errors.New("the path in the container must begin with /")
	}
	return from, to, nil
}

// mapping is a part of the file system that a container sees.
func mapping(m, volume string) (engine.Mount, error) {
	from, to, err := splitMapping(m)
	if err != nil {
		return engine.Mount{}, err
	}
	readOnly := false
	if p, opt, ok := strings.Cut(to, ":"); ok {
		if opt != "ro" && opt != "rw" {
			return engine.Mount{}, fmt.Errorf("%q is not ro or rw", opt)
		}
		to, readOnly = p, opt == "ro"
	}
	if from, err = rooted(from); err != nil {
		return engine.Mount{}, err
	}
	target := path.Clean(to)
	if !path.IsAbs(to) || target == "/" {
		return engine.Mount{}, errors.New("the path in the container must begin with / and be no whole file system")
	}
	if ofKernel(target) {
		return engine.Mount{}, fmt.Errorf("%s is the kernel's in a container", target)
	}
	return engine.Mount{Volume: volume, Path: from, Target: target, ReadOnly: readOnly, Own: !readOnly}, nil
}

// mounts gives the parts of the file system that a container sees, and where
// its commands start ("" is the image's own place).
func (r Run) mounts(volume, project string, v *values) ([]engine.Mount, string, error) {
	if r.NoMount {
		return nil, "", nil
	}
	if len(r.Mounts) == 0 {
		at := "/buddy/" + project
		return []engine.Mount{{Volume: volume, Path: "/", Target: at, Own: true}}, at, nil
	}
	var l []engine.Mount
	dir := ""
	for _, m := range r.Mounts {
		mount, err := mapping(v.expand(m), volume)
		if err != nil {
			return nil, "", fmt.Errorf("volume_mappings: %q: %w", m, err)
		}
		if dir == "" || mount.Path == "/" {
			dir = mount.Target
		}
		l = append(l, mount)
	}
	return l, dir, nil
}

// argv is what the container starts: the commands through a shell, or as the
// arguments of an entrypoint that is none.
func (r Run) argv(v *values) (entrypoint, command []string, shell bool, err error) {
	words, err := splitWords(v.expand(r.Entrypoint))
	if err != nil {
		return nil, nil, false, fmt.Errorf("entrypoint: %w", err)
	}
	script := strings.ReplaceAll(r.Commands, "\r\n", "\n")
	blank := strings.TrimSpace(script) == ""
	switch {
	case len(words) == 0 && blank:
		return nil, nil, false, nil
	case len(words) == 0:
		return []string{"/bin/sh", "-e", "-c"}, []string{script}, true, nil
	case blank:
		return words, []string{}, false, nil
	case isShell(words):
		if words[len(words)-1] != "-c" {
			words = append(words, "-c")
		}
		return words, []string{script}, false, nil
	}
	command, err = splitWords(v.expand(script))
	if err != nil {
		return nil, nil, false, fmt.Errorf("inline_commands: they are the arguments of the entrypoint %q: %w", words[0], err)
	}
	return words, command, false, nil
}

func isShell(words []string) bool {
	switch path.Base(words[0]) {
	case "sh", "bash", "ash", "dash", "zsh", "ksh":
	default:
		return false
	}
	return !slices.ContainsFunc(words[1:], func(w string) bool { return !strings.HasPrefix(w, "-") && w != "pipefail" })
}

// splitWords takes a JSON array of strings, or words in the way of a shell:
// blanks part them, quotes and backslashes keep them together.
func splitWords(s string) ([]string, error) {
	s = strings.TrimSpace(s)
	if strings.HasPrefix(s, "[") && json.Valid([]byte(s)) {
		var l []string
		if json.Unmarshal([]byte(s), &l) != nil {
			return nil, errors.New("a list must have texts alone")
		}
		return l, nil
	}
	var words []string
	var b strings.Builder
	in, quote := false, byte(0)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case c == '\\' && quote != '\'' && i+1 < len(s):
			i++
			if quote == '"' && s[i] != '"' && s[i] != '\\' && s[i] != '$' {
				b.WriteByte('\\')
			}
			b.WriteByte(s[i])
			in = true
		case quote == 0 && (c == '\'' || c == '"'):
			quote, in = c, true
		case quote == 0 && (c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			if in {
				words = append(words, b.String())
				b.Reset()
			}
			in = false
		default:
			b.WriteByte(c)
			in = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a %c is not closed", quote)
	}
	if in {
		words = append(words, b.String())
	}
	return words, nil
}

// host takes scheme and path from a registry's URL.
func (r Registry) host(v *values) (host, below string, plain bool) {
	u := strings.TrimSpace(v.expand(r.URL))
	plain = strings.HasPrefix(u, "http://")
	u = strings.TrimPrefix(strings.TrimPrefix(u, "https://"), "http://")
	host, below, _ = strings.Cut(strings.Trim(u, "/"), "/")
	return host, strings.Trim(below, "/"), plain
}

// login gives the login of the action itself.
func (r Registry) login(v *values) []engine.Login {
	kind := r.Effective()
	if !kind.outside() {
		return nil
	}
	host, _, plain := r.host(v)
	plain = plain && kind == OtherRegistry
	insecure := r.Insecure && kind == OtherRegistry
	if kind == DockerHub || host == "" {
		host = kind.vendor()
	}
	if host == "" || r.Username == "" && !insecure && !plain {
		return nil
	}
	return []engine.Login{{Host: host, Username: v.expand(r.Username), Password: v.expand(r.Password), Insecure: insecure || plain}}
}

// name puts the registry's host before a name that does not have it yet.
func (r Registry) name(n string, v *values) string {
	if kind := r.Effective(); !kind.outside() || kind == DockerHub {
		return n
	}
	host, below, _ := r.host(v)
	if below != "" {
		host += "/" + below
	}
	if host == "" || host == registry.DockerHub || n == host || strings.HasPrefix(n, host+"/") {
		return n
	}
	return host + "/" + strings.TrimPrefix(n, "/")
}

// ownHost means the own registry in every reference.
const ownHost = "slipway.local"

// loginUnused is a note of a step that speaks to the own registry.
const loginUnused = "login and password have no effect: the registry is that of this server, which knows the pipeline's workspace without"

// ref is the image that a run asks for.
func (r Run) ref(domain string, v *values) string {
	name, tag := strings.TrimSpace(v.expand(r.Image)), strings.TrimSpace(v.expand(r.Tag))
	if r.Location == LocationPackage || r.Registry.Effective() == PackageRegistry || r.Registry.Effective() == ArtifactRegistry {
		name = ownHost + "/" + domain + "/" + strings.TrimPrefix(name, domain+"/")
	} else {
		name = r.Registry.name(name, v)
	}
	tag, _, _ = strings.Cut(tag, ",")
	switch tag = strings.TrimSpace(tag); {
	case tag == "":
		return name
	case strings.HasPrefix(tag, "sha256:"):
		return name + "@" + tag
	}
	return name + ":" + tag
}

// target is where the result of a build goes.
type target struct {
	Own   []string // "<workspace>/<name>:<tag>"
	Push  []string // references with a host
	Notes []string
}

// ofPull gives the result in the own registry no tag that others trust, but one of
// the pull request.
func (t *target) ofPull(number string) {
	if len(t.Own) == 0 {
		return
	}
	t.retag("pr-" + number)
	t.Notes = append(t.Notes, "a pull request is built: the image is called "+strings.Join(t.Own, ", ")+", and no other tag moves")
}

// ofTree gives the result of a working tree no name that others trust, and sends
// it nowhere: it has a tag of the user's in the own registry, in the repository
// that is its own if it was to go elsewhere.
func (t *target) ofTree(repository string, user int64) {
	away := t.Push
	if t.Push = nil; len(t.Own) == 0 {
		t.Own = []string{repository + ":"}
	}
	t.retag("local-" + strconv.FormatInt(user, 10))
	note := "a working tree is built: the image is called " + strings.Join(t.Own, ", ") + ", and no other tag moves"
	if len(away) > 0 {
		note += "; nothing is pushed to " + strings.Join(away, ", ")
	}
	t.Notes = append(t.Notes, note)
}

// retag gives the names in the own registry another tag.
func (t *target) retag(tag string) {
	for i, name := range t.Own {
		t.Own[i] = name[:strings.LastIndexByte(name, ':')] + ":" + tag
	}
	slices.Sort(t.Own)
	t.Own = slices.Compact(t.Own)
}

// target says what the result is called. isOwn tells whether a reference means
// the own registry and gives its name there, which begins with a workspace: that
// of another one is refused.
func (b Build) target(domain, project string, v *values, isOwn func(ref string) (string, bool)) (target, error) {
	var t target
	tags := commaList(v.expand(b.Tag))
	if b.Location != LocationPackage { // there they say which image is taken
		for _, w := range b.Versions {
			tags = append(tags, commaList(v.expand(w))...)
		}
	}
	if len(tags) == 0 {
		tags = []string{"latest"}
	}
	slices.Sort(tags)
	tags = slices.Compact(tags)
	kind, repository := b.Registry.Effective(), strings.Trim(strings.TrimSpace(v.expand(b.Repository)), "/")
	name := ""
	switch {
	case kind == PackageRegistry || kind == ArtifactRegistry || kind == RegistryNone && b.packaged():
		name = v.expand(b.Package)
		if name == "" {
			name = repository
		}
	case repository == "" && kind.outside():
		t.Notes = append(t.Notes, "no repository is given: the image stays in the own registry")
	case kind == DockerHub:
		repository = "docker.io/" + strings.TrimPrefix(repository, "docker.io/")
	case kind.outside():
		repository = b.Registry.name(repository, v)
	}
	if own, ok := isOwn(strings.ToLower(repository)); ok {
		workspace, rest, deep := strings.Cut(own, "/")
		if name = own; deep {
			name = rest
		}
		if deep && workspace != domain {
			return t, fmt.Errorf("repository: %s is of the workspace %q in the registry of this server, and this pipeline, of the workspace %q, may write to its own alone: name it %s/%s",
				own, workspace, domain, domain, rest)
		}
		if at := len(repository) - len(name); strings.EqualFold(repository[at:], name) {
			name = repository[at:] // as it was written
		}
		if b.Registry.Username != "" {
			t.Notes = append(t.Notes, loginUnused)
		}
	} else if kind.outside() {
		if repository != "" {
			for _, tag := range tags {
				t.Push = append(t.Push, strings.ToLower(repository)+":"+tag)
			}
			return t, nil
		}
	} else if name == "" {
		name = strings.TrimPrefix(repository, domain+"/")
	}
	if name == "" {
		name = project
	}
	if lower := strings.ToLower(name); lower != name {
		t.Notes = append(t.Notes, fmt.Sprintf("the repository is called %s/%s: names of images are in lower case", domain, lower))
		name = lower
	}
	for _, tag := range tags {
		t.Own = append(t.Own, domain+"/"+name+":"+tag)
	}
	return t, nil
}

// packaged tells whether the result is called as a package: the package is not
// what the image is taken from.
func (b Build) packaged() bool { return b.Package != "" && b.Location != LocationPackage }

func commaList(s string) []string {
	var l []string
	for _, p := range strings.Split(s, ",") {
		if p = strings.TrimSpace(p); p != "" {
			l = append(l, p)
		}
	}
	return l
}

// args expands the build arguments; one without a value takes it from the
// variable of that name.
func (b Build) args(v *values) map[string]string {
	m := map[string]string{}
	for _, a := range b.Args {
		k, val, ok := strings.Cut(v.expand(a), "=")
		k = strings.TrimSpace(k)
		if !ok {
			if val, ok = v.byKey[k]; !ok {
				continue
			}
		}
		m[k] = val
	}
	return m
}

func (b Build) provenance() string {
	if b.Provenance == "NONE" {
		return ""
	}
	return strings.ToLower(b.Provenance)
}
