package pipeline

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"slipway/engine"
	"slipway/secret"
)

// Commands that a shell runs may give variables other values: what they export
// goes on to later actions, if the variable is settable or its name begins with
// OUTPUT_. The shell itself tells which those are, so that no program of the
// image is needed: it writes the variables that it exports into a file that the
// engine reads, once before the commands and once at their end. What the commands
// were given and what they made of it is compared by the same shell's words.

// outputsFile is where. In /dev it leaves nothing in the container's own files.
const outputsFile = "/dev/slipway-exports"

// outputPrefix begins the names that are always passed on.
const outputPrefix = "OUTPUT_"

// telling is a shell's script that runs its first argument as if it stood alone: it
// has no arguments then, and its exit code stays, whichever way it ends. A script
// with an EXIT trap of its own replaces ours; therefore the second look, when it
// has come to its end. Each part goes to a shell of its own: what fails there
// ends nothing, and set -x shows nothing of it.
const (
	telling = `(export -p 2>/dev/null >|` + outputsFile + `) || :; ` +
		`trap '` + tellNow + ` 2>/dev/null || :' EXIT; ` +
		`eval "shift; $1"; ` +
		`{ set -- "$?"; ` + tellNow + ` || :; (exit "$1"); } 2>/dev/null`
	tellNow = `(echo "#" >>` + outputsFile + `; export -p >>` + outputsFile + `)`
)

// exporting are the words with which a shell comes to export something, or to do
// what is written elsewhere.
var exporting = regexp.MustCompile(`export|declare|typeset|source|eval|set -|\. `)

// told gives the command by which a shell runs a script and tells of its
// variables. Where nothing can be told it stays as it is: a shell with one
// command to run becomes that command, which then gets the signals.
func told(entrypoint, command []string, v *values) (_ []string, output string) {
	if !runsScript(entrypoint, command) {
		return command, ""
	}
	settable := slices.ContainsFunc(slices.Collect(maps.Values(v.holders)), holder.settable)
	if !settable && !exporting.MatchString(command[0]) {
		return command, ""
	}
	return []string{telling, entrypoint[0], command[0]}, outputsFile
}

// Output is a variable that the commands of an action have exported.
type Output struct {
	Variable
	Own bool // it is the action's own: no other one gets it
	// tier is where a later run finds it; only until it is kept there.
	tier tier
}

// outputs compares what a shell told before and after its commands, and gives
// what is passed on, sorted by key. notes say what is not, and why.
func outputs(dump string, v *values) (out []Output, notes []string) {
	if len(dump) >= engine.MaxOutput {
		return nil, []string{fmt.Sprintf("what is exported has more than %d bytes: nothing of it is passed on", engine.MaxOutput)}
	}
	before, after, ok := exports(dump)
	if !ok {
		return nil, nil
	}
	for _, k := range slices.Sorted(maps.Keys(after)) {
		value := after[k]
		h := v.holders[k]
		if was, there := before[k]; there && was == value || !h.settable() && !strings.HasPrefix(k, outputPrefix) {
			continue
		}
		w := Variable{Key: k, Value: value, Settable: h.forever, RunOnlySettable: !h.forever, Encrypted: h.secret || v.hides(value)}
		switch {
		case tooLong(k + "=" + value):
			notes = append(notes, fmt.Sprintf("%s is not passed on: it has more than %d bytes with its name", k, secret.MaxWord))
		case !utf8.ValidString(value):
			notes = append(notes, k+" is not passed on: its value is no text")
		case value == secret.Encrypted:
			notes = append(notes, k+" is not passed on: its value is the word that stands for a hidden one")
		default:
			out = append(out, Output{Variable: w, Own: h.tier >= tierAction && h.settable(), tier: h.tier})
		}
	}
	return out, notes
}

// hides tells whether a text has a secret in it.
func (v *values) hides(s string) bool {
	return slices.ContainsFunc(v.mask, func(m []byte) bool { return bytes.Contains([]byte(s), m) })
}

// exports reads what a shell wrote: several times `export -p`, parted by lines
// with a #. It gives the first and the last of them.
func exports(dump string) (before, after map[string]string, ok bool) {
	var parts []map[string]string
	now := map[string]string{}
	for dump != "" {
		words, rest, whole := shellLine(dump)
		if !whole {
			return nil, nil, false
		}
		dump = rest
		if len(words) == 1 && words[0] == "#" {
			parts, now = append(parts, now), map[string]string{}
			continue
		}
		if len(words) < 2 || words[0] != "export" && words[0] != "declare" && words[0] != "typeset" {
			continue
		}
		words = words[1:]
		for len(words) > 0 && strings.HasPrefix(words[0], "-") {
			if strings.ContainsAny(words[0], "aA") { // a list
				words = nil
				break
			}
			words = words[1:]
		}
		if len(words) > 0 {
			if k, value, has := strings.Cut(words[0], "="); has && variableKey.MatchString(k) {
				now[k] = value
			}
		}
	}
	if len(parts) == 0 {
		return nil, nil, false
	}
	return parts[0], now, true
}

// shellLine takes one line of shell into words, quotes and all; a line end in
// quotes is no line end. whole is false if the quotes are not closed.
func shellLine(s string) (words []string, rest string, whole bool) {
	var b strings.Builder
	in := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\n':
			if in {
				words = append(words, b.String())
			}
			return words, s[i+1:], true
		case c == ' ' || c == '\t':
			if in {
				words = append(words, b.String())
				b.Reset()
			}
			in = false
			continue
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case c == '$' && i+1 < len(s) && s[i+1] == '\'':
			text, n, closed := cQuoted(s[i+2:])
			if !closed {
				return nil, "", false
			}
			b.WriteString(text)
			i += 1 + n
		case c == '\'':
			n := strings.IndexByte(s[i+1:], '\'')
			if n < 0 {
				return nil, "", false
			}
			b.WriteString(s[i+1 : i+1+n])
			i += 1 + n
		case c == '"':
			text, n, closed := doubleQuoted(s[i+1:])
			if !closed {
				return nil, "", false
			}
			b.WriteString(text)
			i += n
		default:
			b.WriteByte(c)
		}
		in = true
	}
	return nil, "", false // without a line end it was cut
}

// doubleQuoted reads what is behind a double quote; n is how long it is with
// the closing one.
func doubleQuoted(s string) (text string, n int, closed bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), i + 1, true
		case c == '\\' && i+1 < len(s) && strings.IndexByte("\"\\$`", s[i+1]) >= 0:
			i++
			b.WriteByte(s[i])
		case c == '\\' && i+1 < len(s) && s[i+1] == '\n':
			i++
		default:
			b.WriteByte(c)
		}
	}
	return "", 0, false
}

// cQuoted reads what is behind $', with the escapes of C; n is how long it is
// with the closing quote.
func cQuoted(s string) (text string, n int, closed bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\'':
			return b.String(), i + 1, true
		case c == '\\' && i+1 < len(s):
			i++
			i += escape(&b, s[i:]) - 1
		default:
			b.WriteByte(c)
		}
	}
	return "", 0, false
}

// escape writes what stands behind a backslash in $'...', and gives how many
// bytes that were.
func escape(b *strings.Builder, s string) int {
	digits := func(from, most, base int) (int64, int) {
		end := from
		for end < len(s) && end-from < most {
			if _, err := strconv.ParseUint(s[end:end+1], base, 8); err != nil {
				break
			}
			end++
		}
		n, _ := strconv.ParseInt(s[from:end], base, 64)
		return n, end
	}
	if at := strings.IndexByte("abefnrtvE", s[0]); at >= 0 {
		b.WriteByte("\a\b\x1b\f\n\r\t\v\x1b"[at])
		return 1
	}
	switch s[0] {
	case '0', '1', '2', '3', '4', '5', '6', '7':
		n, end := digits(0, 3, 8)
		b.WriteByte(byte(n))
		return end
	case 'x':
		n, end := digits(1, 2, 16)
		b.WriteByte(byte(n))
		return end
	case 'u', 'U':
		most := 4
		if s[0] == 'U' {
			most = 8
		}
		n, end := digits(1, most, 16)
		b.WriteRune(rune(n))
		return end
	}
	b.WriteByte(s[0])
	return 1
}
