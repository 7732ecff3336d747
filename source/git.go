package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// program is the git binary.
type program struct {
	path  string
	umask bool // ours is not 022, so what writes work trees is started through sh
}

// The oldest git that syncs everything it writes when asked (core.fsync) and
// takes an address for a host (http.curloptResolve, 2.37).
const oldestMajor, oldestMinor = 2, 37

var versionText = regexp.MustCompile(`git version (\d+)\.(\d+)`)

func findGit(ctx context.Context) (program, error) {
	path, err := exec.LookPath("git")
	if err != nil {
		return program{}, errors.New("git is not installed: apt-get install git")
	}
	g := program{path: path, umask: umask() != 0o022}
	out, err := g.run(ctx, call{args: []string{"version"}})
	if err != nil {
		return program{}, err
	}
	return g, checkVersion(path, string(out))
}

func checkVersion(path, text string) error {
	m := versionText.FindStringSubmatch(text)
	if m == nil {
		return fmt.Errorf("%s does not tell its version: %q", path, strings.TrimSpace(text))
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	if major < oldestMajor || major == oldestMajor && minor < oldestMinor {
		return fmt.Errorf("%s is version %s.%s; %d.%d or newer is needed", path, m[1], m[2], oldestMajor, oldestMinor)
	}
	return nil
}

// umask reads the umask of the process without changing it.
func umask() int {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "Umask:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 8, 32)
			if err == nil {
				return int(n)
			}
		}
	}
	return -1
}

// call is one run of git.
type call struct {
	repo   string   // --git-dir
	tree   string   // --work-tree, an own empty folder
	index  string   // GIT_INDEX_FILE
	args   []string // command and arguments
	config []string // "key=value", beside those that hold always
	env    []string // beside the scrubbed environment; never logged
	hide   []string // texts that no message may show
	files  []*os.File
	stdin  io.Reader
	nosync bool  // what it writes is a cache
	write  bool  // it writes files of a work tree: umask 022
	most   int64 // bytes of a file that it may write; 0 is no bound
}

// always holds for every run: nothing outside our own words is read, no hook
// runs, nothing is fetched over a protocol that was not named, and what is
// written is on disk when git says so.
var always = []string{
	"core.hooksPath=/dev/null", "core.attributesFile=/dev/null", "core.excludesFile=/dev/null",
	"core.fsmonitor=false", "core.untrackedCache=false", "core.logAllRefUpdates=false", "core.quotePath=false",
	"core.symlinks=true", "core.fileMode=true",
	"index.version=2", "index.threads=1", "index.sparse=false",
	"gc.auto=0", "gc.autoDetach=false", "maintenance.auto=false", "fetch.writeCommitGraph=false",
	"protocol.allow=never", "protocol.version=2", "init.defaultBranch=main", "safe.directory=*",
	"transfer.unpackLimit=1", "fastimport.unpackLimit=1", "tar.umask=0022", "pack.writeReverseIndex=false",
	"submodule.recurse=false", "fetch.recurseSubmodules=false", "credential.helper=", "core.askPass=/bin/false",
}

// proxies are the only settings of ours that git takes over.
var proxies = []string{"http_proxy", "https_proxy", "no_proxy", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "all_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"}

func (g program) command(ctx context.Context, c call) *exec.Cmd {
	var args []string
	if c.repo != "" {
		args = append(args, "--git-dir="+c.repo)
	}
	if c.tree != "" {
		args = append(args, "--work-tree="+c.tree)
	}
	args = append(args, c.args...)
	first := ""
	if c.write && g.umask {
		first = "umask 022; "
	}
	if c.most > 0 {
		// POSIX counts in blocks; without the signal git says what was wrong.
		first += fmt.Sprintf("trap '' XFSZ; ulimit -f %d; ", (c.most+511)/512)
	}
	cmd := exec.CommandContext(ctx, g.path, args...)
	if first != "" {
		cmd = exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", first + `exec "$@"`, "sh", g.path}, args...)...)
	}
	cmd.Dir = "/"
	if c.tree != "" {
		cmd.Dir = c.tree
	}
	cmd.Env = c.environment()
	cmd.ExtraFiles = c.files
	cmd.Stdin = c.stdin
	// A group of its own, so that what git started ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

func (c call) environment() []string {
	env := []string{
		"PATH=" + searchPath(), "LC_ALL=C", "TZ=UTC", "HOME=/nonexistent", "XDG_CONFIG_HOME=/nonexistent",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_ATTR_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_OPTIONAL_LOCKS=0", "GIT_NO_REPLACE_OBJECTS=1", "GIT_ADVICE=0",
	}
	for _, name := range proxies {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	if c.index != "" {
		env = append(env, "GIT_INDEX_FILE="+c.index)
	}
	config := append([]string{}, always...)
	if c.nosync {
		config = append(config, "core.fsync=none")
	} else {
		config = append(config, "core.fsync=all", "core.fsyncMethod=fsync")
	}
	config = append(config, c.config...)
	env = append(env, "GIT_CONFIG_COUNT="+strconv.Itoa(len(config)))
	for i, kv := range config {
		k, v, _ := strings.Cut(kv, "=")
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, k), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, v))
	}
	return append(env, c.env...)
}

func searchPath() string {
	if p := os.Getenv("PATH"); p != "" {
		return p
	}
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

// run runs git to its end and gives what it wrote.
func (g program) run(ctx context.Context, c call) ([]byte, error) {
	cmd := g.command(ctx, c)
	var out bytes.Buffer
	var errs tail
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() < 0 {
			// Somebody killed it: what it started would go on, without our lock.
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
		return out.Bytes(), c.failed(ctx, err, errs.String())
	}
	return out.Bytes(), nil
}

// gitError is what git said when it failed.
type gitError struct {
	command string
	code    int
	text    string // redacted
}

func (e *gitError) Error() string {
	if e.text == "" {
		return fmt.Sprintf("git %s: exit code %d", e.command, e.code)
	}
	return fmt.Sprintf("git %s: %s", e.command, e.text)
}

func (c call) failed(ctx context.Context, err error, text string) error {
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("git %s: %w", c.args[0], cause)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("git %s: %w", c.args[0], err)
	}
	said := message(redact(text, c.hide...))
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() && said == "" {
		said = "it was ended by a signal: " + ws.Signal().String()
	}
	return &gitError{c.args[0], exit.ExitCode(), said}
}

// message keeps of git's words the lines that say what went wrong.
func message(text string) string {
	var said, other []string
	for line := range strings.Lines(text) {
		if i := strings.LastIndexByte(strings.TrimRight(line, "\r\n"), '\r'); i >= 0 {
			line = line[i+1:]
		}
		line = strings.TrimSpace(line)
		switch {
		case line == "" || strings.HasPrefix(line, "hint:") || strings.HasPrefix(line, "warning:"):
		case strings.HasPrefix(line, "fatal:") || strings.HasPrefix(line, "error:"):
			_, line, _ = strings.Cut(line, ":")
			said = append(said, strings.TrimSpace(line))
		default:
			other = append(other, line)
		}
	}
	if len(other) > 3 {
		other = other[len(other)-3:]
	}
	return strings.Join(append(said, other...), "; ")
}

var credentials = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^/@\s'"]*@`)

// redact takes credentials in URLs, and the given texts, out of a message.
func redact(text string, hide ...string) string {
	for _, h := range hide {
		if len(h) > 3 {
			text = strings.ReplaceAll(text, h, "***")
		}
	}
	return credentials.ReplaceAllString(text, "${1}***@")
}

// tail keeps the last part of what is written to it.
type tail struct{ b []byte }

const tailSize = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > 2*tailSize {
		t.b = append(t.b[:0], t.b[len(t.b)-tailSize:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.ToValidUTF8(string(t.b), "?") }
