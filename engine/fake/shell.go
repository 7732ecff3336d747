package fake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// files is what the words see of a file system.
type files interface {
	read(name string) ([]byte, error)
	write(name string, b []byte, more bool) error
	mkdir(name string) error
	remove(name string) error
	stat(name string) (dir bool, err error)
}

// output takes whole lines.
type output interface {
	line(stream byte, text string)
}

// shell plays words.
type shell struct {
	w      *world
	id     string
	env    []string
	dir    string
	user   string
	fs     files
	in     io.Reader
	out    output
	deaf   func()
	stays  bool // of a service: what is not known does nothing
	strict bool // set -e
	exited bool
	args   []string // $1 and so on
	last   int      // $?
	atExit string
}

// exec runs a command line as a container does: a shell with a script, or one
// command.
func (s *shell) exec(ctx context.Context, argv []string) (int, error) {
	if len(argv) == 0 {
		return 0, nil
	}
	switch path.Base(argv[0]) {
	case "sh", "ash", "bash":
		return s.sh(ctx, argv[1:])
	}
	if base := path.Base(argv[0]); base == "missing-program" || !known[base] && !s.stays {
		return 127, nil
	}
	return s.command(ctx, argv)
}

func (s *shell) sh(ctx context.Context, args []string) (int, error) {
	script := false
	for i, a := range args {
		switch {
		case script:
			s.args = args[min(i+2, len(args)):] // behind the script and $0
			return s.atEnd(ctx, a)
		case strings.HasPrefix(a, "-"):
			s.strict = s.strict || strings.Contains(a, "e")
			script = strings.Contains(a, "c")
		default: // a file
			b, err := s.fs.read(s.abs(a))
			if err != nil {
				s.out.line('e', "sh: can't open '"+a+"'")
				return 2, nil
			}
			return s.script(ctx, string(b))
		}
	}
	if s.in != nil {
		b, err := io.ReadAll(s.in)
		if err != nil {
			return 1, nil
		}
		return s.script(ctx, string(b))
	}
	return 0, nil
}

// atEnd runs a script, and then what it trapped for its end.
func (s *shell) atEnd(ctx context.Context, text string) (int, error) {
	code, err := s.script(ctx, text)
	if trap := s.atExit; trap != "" && err == nil {
		s.atExit, s.exited = "", false
		_, err = s.script(ctx, trap)
	}
	return code, err
}

// script runs statements one after the other.
func (s *shell) script(ctx context.Context, text string) (int, error) {
	code, op := 0, ";"
	for st := range parse(text, s.getenv) {
		skip := op == "&&" && code != 0 || op == "||" && code == 0
		op = st.op
		if skip || len(st.words) == 0 {
			continue
		}
		var err error
		code, err = s.command(ctx, st.words)
		if s.last = code; err != nil || s.exited {
			return code, err
		}
		if code != 0 && s.strict && op == ";" {
			return code, nil
		}
	}
	return code, nil
}

func (s *shell) getenv(name string) string {
	if name == "?" {
		return strconv.Itoa(s.last)
	}
	if n, err := strconv.Atoi(name); err == nil {
		if n > 0 && n <= len(s.args) {
			return s.args[n-1]
		}
		return ""
	}
	for i := len(s.env) - 1; i >= 0; i-- {
		if k, v, _ := strings.Cut(s.env[i], "="); k == name {
			return v
		}
	}
	return ""
}

func (s *shell) abs(name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join("/", s.dir, name)
}

var known = map[string]bool{
	"exit": true, "true": true, "false": true, ":": true, "echo": true, "print": true, "printf": true, "sleep": true, "cat": true, "test": true,
	"[": true, "mkdir": true, "rm": true, "touch": true, "pwd": true, "env": true, "whoami": true, "id": true, "cd": true, "set": true, "export": true,
	"trap": true, "eval": true, "shift": true, "block": true, "oom": true, "fail-machinery": true, "ls": true,
}

// command runs one command.
func (s *shell) command(ctx context.Context, argv []string) (int, error) {
	if how := context.Cause(ctx); how != nil {
		return 0, how
	}
	argv, to := redirect(argv)
	if len(argv) > 0 && (argv[0] == "{" || argv[0] == "}") {
		argv = argv[1:]
	}
	if len(argv) == 0 {
		return to.done(s, nil)
	}
	args := argv[1:]
	switch path.Base(argv[0]) {
	case "exit":
		s.exited = true
		return number(args), nil
	case "true", ":", "ls":
		return 0, nil
	case "export":
		if len(args) > 0 && args[0] == "-p" {
			return to.done(s, s.exported())
		}
		for _, a := range args {
			k, v, has := strings.Cut(a, "=")
			if !has {
				v = s.getenv(k)
			}
			s.env = append(s.env[:len(s.env):len(s.env)], k+"="+v)
		}
		return 0, nil
	case "eval":
		return s.script(ctx, strings.Join(args, " "))
	case "shift":
		s.args = s.args[min(1, len(s.args)):]
		return 0, nil
	case "false":
		return 1, nil
	case "set":
		if len(args) > 0 && args[0] == "--" {
			s.args = args[1:]
			return 0, nil
		}
		s.strict = s.strict || len(args) > 0 && strings.HasPrefix(args[0], "-") && strings.Contains(args[0], "e")
		return 0, nil
	case "cd":
		if len(args) > 0 {
			s.dir = s.abs(args[0])
		}
		return 0, nil
	case "trap":
		if len(args) > 1 && args[1] == "EXIT" {
			s.atExit = args[0]
		} else if len(args) > 1 && args[0] == "" && s.deaf != nil {
			s.deaf()
		}
		return 0, nil
	case "block", "sleep":
		return 0, s.wait(ctx, argv)
	case "oom":
		return 0, &ending{code: 137, signal: 9, oom: true}
	case "fail-machinery":
		return 0, errors.New("the machinery failed, as it was told to")
	case "echo", "print", "printf":
		return to.done(s, []byte(strings.Join(args, " ")+"\n"))
	case "pwd":
		return to.done(s, []byte(s.dir+"\n"))
	case "whoami", "id":
		user := s.user
		if user == "" {
			user = "root"
		}
		return to.done(s, []byte(user+"\n"))
	case "env":
		return to.done(s, []byte(strings.Join(s.env, "\n")+"\n"))
	}
	return s.fileCommand(argv, to)
}

func (s *shell) fileCommand(argv []string, to target) (int, error) {
	args := argv[1:]
	fail := func(err error) (int, error) {
		s.out.line('e', argv[0]+": "+err.Error())
		return 1, nil
	}
	switch path.Base(argv[0]) {
	case "cat":
		if len(args) == 0 && s.in != nil {
			b, err := io.ReadAll(s.in)
			if err != nil {
				return fail(err)
			}
			return to.done(s, b)
		}
		var all []byte
		for _, a := range args {
			b, err := s.fs.read(s.abs(a))
			if err != nil {
				return fail(fmt.Errorf("can't open '%s': No such file or directory", a))
			}
			all = append(all, b...)
		}
		return to.done(s, all)
	case "test", "[":
		return s.test(args), nil
	case "mkdir", "rm", "touch":
		for _, a := range args {
			if strings.HasPrefix(a, "-") {
				continue
			}
			var err error
			switch path.Base(argv[0]) {
			case "mkdir":
				err = s.fs.mkdir(s.abs(a))
			case "rm":
				err = s.fs.remove(s.abs(a))
			case "touch":
				err = s.fs.write(s.abs(a), nil, true)
			}
			if err != nil {
				return fail(err)
			}
		}
		return 0, nil
	}
	if s.stays {
		return 0, nil
	}
	s.out.line('e', "sh: "+argv[0]+": not found")
	return 127, nil
}

// wait is sleep and block.
func (s *shell) wait(ctx context.Context, argv []string) error {
	var t <-chan time.Time
	var open chan struct{}
	if argv[0] == "block" {
		s.w.mu.Lock()
		g := s.w.gate(s.id)
		if !g.isReached {
			g.isReached = true
			close(g.reached)
		}
		open = g.open
		s.w.mu.Unlock()
	} else {
		timer := time.NewTimer(duration(argv[1:]))
		defer timer.Stop()
		t = timer.C
	}
	select {
	case <-t:
	case <-open:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

func (s *shell) test(args []string) int {
	if n := len(args); n > 0 && args[n-1] == "]" {
		args = args[:n-1]
	}
	not := len(args) > 0 && args[0] == "!"
	if not {
		args = args[1:]
	}
	ok := false
	switch {
	case len(args) == 2 && strings.HasPrefix(args[0], "-"):
		dir, err := s.fs.stat(s.abs(args[1]))
		switch args[0] {
		case "-e":
			ok = err == nil
		case "-d":
			ok = err == nil && dir
		case "-f":
			ok = err == nil && !dir
		case "-n":
			ok = args[1] != ""
		case "-z":
			ok = args[1] == ""
		}
	case len(args) == 3 && (args[1] == "=" || args[1] == "=="):
		ok = args[0] == args[2]
	case len(args) == 3 && args[1] == "!=":
		ok = args[0] != args[2]
	}
	if ok != not {
		return 0
	}
	return 1
}

func number(args []string) int {
	if len(args) == 0 {
		return 0
	}
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return 2
	}
	return n & 255
}

func duration(args []string) time.Duration {
	if len(args) == 0 {
		return 0
	}
	if n, err := strconv.ParseFloat(args[0], 64); err == nil {
		return time.Duration(n * float64(time.Second))
	}
	d, err := time.ParseDuration(args[0])
	if err != nil {
		return 0
	}
	return d
}

// target is where the output of a command goes.
type target struct {
	file   string
	more   bool
	stderr bool
}

// redirect takes the redirections out of a command.
func redirect(words []string) ([]string, target) {
	var to target
	var out []string
	for i := 0; i < len(words); i++ {
		switch w := words[i]; {
		case w == "\x00>&2":
			to.stderr = true
		case (w == "\x00>" || w == "\x00>>") && i+1 < len(words):
			to.file, to.more = words[i+1], w == "\x00>>"
			i++
		default:
			out = append(out, w)
		}
	}
	return out, to
}

func (to target) done(s *shell, b []byte) (int, error) {
	if to.file != "" && to.file != "/dev/null" {
		if err := s.fs.write(s.abs(to.file), b, to.more); err != nil {
			s.out.line('e', "sh: can't create "+to.file+": "+err.Error())
			return 1, nil
		}
		return 0, nil
	}
	stream := byte('o')
	if to.stderr {
		stream = 'e'
	}
	if len(b) > 0 && to.file == "" {
		for l := range strings.SplitSeq(strings.TrimSuffix(string(b), "\n"), "\n") {
			s.out.line(stream, l)
		}
	}
	return 0, nil
}

// statement is a command and what stands behind it: ";", "&&" or "||".
type statement struct {
	words []string
	op    string
}

// exported is what export -p says.
func (s *shell) exported() []byte {
	var b strings.Builder
	seen := map[string]bool{}
	for _, kv := range slices.Backward(s.env) {
		if k, v, _ := strings.Cut(kv, "="); !seen[k] {
			seen[k] = true
			fmt.Fprintf(&b, "export %s='%s'\n", k, strings.ReplaceAll(v, "'", `'"'"'`))
		}
	}
	return []byte(b.String())
}

// parse takes a script apart, as it is asked for statements: quotes, variables,
// redirections, operators and comments, no more; what is in parentheses is run
// as if they were not there. Redirections are words that begin with a zero byte.
func parse(text string, getenv func(string) string) iter.Seq[statement] {
	return func(yield func(statement) bool) { statements(text, getenv, yield) }
}

func statements(text string, getenv func(string) string, yield func(statement) bool) {
	var st statement
	var word strings.Builder
	in, stopped, depth := false, false, 0
	flush := func() {
		if in {
			st.words = append(st.words, word.String())
		}
		word.Reset()
		in = false
	}
	end := func(op string) {
		flush()
		st.op = op
		stopped = stopped || !yield(st)
		st = statement{}
	}
	for i := 0; i < len(text) && !stopped; i++ {
		rest := text[i:]
		switch c := text[i]; {
		case c == '\'':
			n := strings.IndexByte(rest[1:], '\'')
			if n < 0 {
				n = len(rest) - 1
			}
			word.WriteString(rest[1 : 1+n])
			in = true
			i += n + 1
		case c == '"':
			n := strings.IndexByte(rest[1:], '"')
			if n < 0 {
				n = len(rest) - 1
			}
			word.WriteString(os.Expand(rest[1:1+n], getenv))
			in = true
			i += n + 1
		case c == '\\' && len(rest) > 1:
			if rest[1] != '\n' {
				word.WriteByte(rest[1])
				in = true
			}
			i++
		case c == '$' && len(rest) > 1 && strings.IndexByte("{ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_", rest[1]) >= 0:
			n := 1
			if rest[1] == '{' {
				n = strings.IndexByte(rest, '}') + 1
				if n == 0 {
					n = len(rest)
				}
			} else {
				for n < len(rest) && (rest[n] == '_' || rest[n] >= '0' && rest[n] <= '9' || rest[n] >= 'A' && rest[n] <= 'Z' || rest[n] >= 'a' && rest[n] <= 'z') {
					n++
				}
			}
			word.WriteString(os.Expand(rest[:n], getenv))
			in = true
			i += n - 1
		case strings.HasPrefix(rest, "&&"), strings.HasPrefix(rest, "||"):
			end(rest[:2])
			i++
		case strings.HasPrefix(rest, "2>&1"):
			flush()
			i += 3
		case strings.HasPrefix(rest, "2>/dev/null"):
			flush()
			i += len("2>/dev/null") - 1
		case c == '(' && !in:
			depth++
		case c == ')' && depth > 0:
			flush()
			depth--
		case strings.HasPrefix(rest, ">|"):
			flush()
			st.words = append(st.words, "\x00>")
			i++
		case strings.HasPrefix(rest, ">&2"):
			flush()
			st.words = append(st.words, "\x00>&2")
			i += 2
		case strings.HasPrefix(rest, ">>"):
			flush()
			st.words = append(st.words, "\x00>>")
			i++
		case c == '>':
			flush()
			st.words = append(st.words, "\x00>")
		case c == ';' || c == '\n':
			end(";")
		case c == '#' && !in:
			n := strings.IndexByte(rest, '\n')
			if n < 0 {
				n = len(rest)
			}
			i += n - 1
		case c == ' ' || c == '\t' || c == '\r':
			flush()
		default:
			word.WriteByte(c)
			in = true
		}
	}
	if !stopped {
		end(";")
	}
}
