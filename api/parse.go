package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// object keeps the order of its members, so that errors come in that of the
// body.
type object []member

type member struct {
	name  string
	value any
}

// parse reads exactly one JSON value: object, []any, string, json.Number, bool
// or nil.
func parse(b []byte) (any, error) {
	if len(bytes.TrimSpace(b)) == 0 {
		return nil, errors.New("the body is empty; JSON is expected")
	}
	if !utf8.Valid(b) {
		return nil, errors.New("the body is not UTF-8")
	}
	var whole json.RawMessage
	if err := json.Unmarshal(b, &whole); err != nil {
		return nil, syntax(b, err)
	}
	// From here on it is known to be JSON.
	p := parser{text: b}
	p.space()
	v, err := p.value(0)
	if err != nil {
		line, col := position(b, p.at)
		return nil, fmt.Errorf("line %d, column %d: %w", line, col, err)
	}
	return v, nil
}

func syntax(b []byte, err error) error {
	var e *json.SyntaxError
	if !errors.As(err, &e) {
		return fmt.Errorf("the body is no JSON: %w", err)
	}
	switch {
	case e.Error() == "unexpected end of JSON input":
		line, col := position(b, len(b))
		return fmt.Errorf("the body is no JSON: line %d, column %d: it ends too early", line, col)
	case strings.HasSuffix(e.Error(), "after top-level value"):
		line, col := position(b, int(e.Offset)-1)
		return fmt.Errorf("there is more after the end of the JSON, at line %d, column %d", line, col)
	}
	line, col := position(b, int(e.Offset)-1)
	return fmt.Errorf("the body is no JSON: line %d, column %d: %w", line, col, e)
}

// position gives line and column, from 1, of a byte.
func position(b []byte, at int) (line, col int) {
	head := b[:min(max(at, 0), len(b))]
	return 1 + bytes.Count(head, []byte{'\n'}), len(head) - bytes.LastIndexByte(head, '\n')
}

// parser takes apart text that is valid JSON.
type parser struct {
	text   []byte
	at     int
	values int
}

func (p *parser) space() {
	for p.at < len(p.text) && (p.text[p.at] == ' ' || p.text[p.at] == '\n' || p.text[p.at] == '\t' || p.text[p.at] == '\r') {
		p.at++
	}
}

// next tells whether a list or object goes on, and steps over what is between
// its members, or over its end.
func (p *parser) next(end byte) bool {
	p.space()
	switch p.text[p.at] {
	case end:
		p.at++
		return false
	case ',':
		p.at++
		p.space()
	}
	return true
}

func (p *parser) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("it is nested more than %d levels deep", maxDepth)
	}
	if p.values++; p.values > maxValues {
		return nil, fmt.Errorf("it holds more than %d values", maxValues)
	}
	switch p.text[p.at] {
	case '{':
		return p.object(depth)
	case '[':
		p.at++
		l := []any{}
		for p.next(']') {
			v, err := p.value(depth + 1)
			if err != nil {
				return nil, err
			}
			l = append(l, v)
		}
		return l, nil
	case '"':
		return p.string()
	case 't':
		p.at += len("true")
		return true, nil
	case 'f':
		p.at += len("false")
		return false, nil
	case 'n':
		p.at += len("null")
		return nil, nil
	}
	start := p.at
	for p.at < len(p.text) && strings.IndexByte("+-.0123456789eE", p.text[p.at]) >= 0 {
		p.at++
	}
	return json.Number(p.text[start:p.at]), nil
}

func (p *parser) object(depth int) (any, error) {
	p.at++
	o, seen := object{}, map[string]bool{}
	for p.next('}') {
		name, err := p.string()
		if err != nil {
			return nil, err
		}
		if seen[name] {
			return nil, fmt.Errorf("the member %q is there twice", name)
		}
		seen[name] = true
		p.space()
		p.at++ // the colon
		p.space()
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		o = append(o, member{name, v})
	}
	return o, nil
}

func (p *parser) string() (s string, err error) {
	start, plain := p.at, true
	for p.at++; p.text[p.at] != '"'; p.at++ {
		if p.text[p.at] == '\\' {
			plain = false
			p.at++
		}
	}
	p.at++
	text := p.text[start:p.at]
	if plain {
		return string(text[1 : len(text)-1]), nil
	}
	err = json.Unmarshal(text, &s)
	return s, err
}
