package buddy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"slipway/pipeline"
	"slipway/project"
)

// Pipelines as code: the vendor's YAML. A file is a list of pipelines. The words
// are those of the JSON, but for three: "pipeline" is the identifier of one,
// "actions" are its actions, and "action" is the name of one.

// maxYAML bounds a file, in bytes, the others what is in it once aliases are
// followed: the path of every value is remembered for its line.
const (
	maxYAML  = 1 << 20
	maxNodes = 20_000
	maxDeep  = 16
	maxWord  = 100 // of the name of a member
	maxTold  = 50  // errors, and members that nobody reads, that are told of a file
)

// ReadYAML reads a file. All that is wrong with it is a *project.Invalid, each
// field with its line; ignored are the members that nobody reads.
func ReadYAML(text []byte) (list []pipeline.Definition, ignored []string, err error) {
	f := &yamlFile{lines: map[string]int{}, left: maxNodes}
	all := f.list(text)
	for i, v := range all {
		at := "pipelines." + strconv.Itoa(i)
		d := f.definition(at, v, pipe{})
		d.Lines = f.linesBelow(at)
		list = append(list, d)
	}
	f.twice(list)
	return list, f.unread(), f.wrong()
}

// ReadDefinition reads from a file the pipeline that one of the store stands for,
// as pipeline.Language says. The others in the file may be what they will.
func ReadDefinition(text []byte, of pipe, with []pipeline.Parameter) (d pipeline.Definition, ignored []string, err error) {
	f := &yamlFile{lines: map[string]int{}, left: maxNodes}
	if with != nil {
		text = f.fill(text, with)
	}
	all := f.list(text)
	if err := f.wrong(); err != nil {
		return d, nil, err
	}
	i := chosen(all, of)
	if i < 0 {
		f.bad("pipelines", "unknown", "none of the %d pipelines is %s, by pipeline or name", len(all), of.Identifier)
		return d, nil, f.wrong()
	}
	of.Identifier, of.Name = "", ""
	d = f.definition("pipelines."+strconv.Itoa(i), all[i], of)
	return d, f.unread(), f.wrong()
}

// chosen finds a pipeline among those of a file.
func chosen(all []any, of pipe) int {
	is := func(member, want string) int {
		return slices.IndexFunc(all, func(v any) bool {
			m, _ := v.(map[string]any)
			s, _ := m[member].(string)
			return s != "" && s == want
		})
	}
	for _, i := range []int{is("pipeline", of.Identifier), is("name", of.Name), is("pipeline", of.Name)} {
		if i >= 0 {
			return i
		}
	}
	if len(all) == 1 {
		return 0
	}
	return -1
}

// parameter is a word of a template that something stands for: !key, !{key}, or
// !{key:what it is without a value}.
var parameter = regexp.MustCompile(`!(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(:[^}]*)?\})`)

// fill puts values for the parameters of a template into it. A !key without braces
// that has none stays as it is, as it may be a word of something else.
func (f *yamlFile) fill(text []byte, with []pipeline.Parameter) []byte {
	values, used := map[string]string{}, map[string]bool{}
	for _, q := range with {
		values[q.Key] = q.Value
	}
	var out []byte
	last, size, line, counted := 0, len(text), 1, 0
	for _, m := range parameter.FindAllSubmatchIndex(text, -1) {
		part := func(i int) string {
			if m[2*i] < 0 {
				return ""
			}
			return string(text[m[2*i]:m[2*i+1]])
		}
		key := part(1) + part(2)
		value, ok := values[key]
		switch used[key] = true; {
		case ok:
		case m[6] >= 0:
			value = part(3)[1:]
		case m[4] >= 0:
			line, counted = line+bytes.Count(text[counted:m[0]], []byte("\n")), m[0]
			f.bad("remote_parameters", "required", "line %d: the parameter %s has no value: give it one, or a default as in !{%s:default}", line, key, key)
		default:
			value = part(0)
		}
		if size += len(value); size > maxYAML {
			f.bad("", "maximum", "a file has at most %d bytes, with its parameters", maxYAML)
			return nil
		}
		out = append(append(out, text[last:m[0]]...), value...)
		last = m[1]
	}
	for _, q := range with {
		if !used[q.Key] {
			f.ignore("remote_parameters " + q.Key)
		}
	}
	return append(out, text[last:]...)
}

// list reads the pipelines of a file into what JSON would have given.
func (f *yamlFile) list(text []byte) []any {
	if len(text) > maxYAML {
		f.bad("", "maximum", "a file has at most %d bytes", maxYAML)
	}
	if len(f.inv.Fields) > 0 {
		return nil
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		f.bad("", "format", "%s", strings.TrimPrefix(err.Error(), "yaml: "))
		return nil
	}
	var tree any
	if len(doc.Content) > 0 {
		tree = f.value(doc.Content[0], "pipelines", 0)
	}
	all, ok := tree.([]any)
	if len(f.inv.Fields) > 0 {
		return nil
	}
	if !ok || len(all) == 0 {
		f.bad("pipelines", "type", "must be a list of pipelines, each beginning with - pipeline:")
	}
	return all
}

// yamlFile is a file that is read.
type yamlFile struct {
	lines   map[string]int // by path
	left    int
	inv     project.Invalid
	ignored []string
	more    int // errors beyond those in inv
	vain    int // members beyond those in ignored
}

// wrong is all that is wrong.
func (f *yamlFile) wrong() error {
	if f.more > 0 {
		f.inv.Add("", "maximum", fmt.Sprintf("and %d more", f.more))
		f.more = 0
	}
	return f.inv.Err()
}

// ignore notes a member that nobody reads.
func (f *yamlFile) ignore(name string) {
	if len(f.ignored) == maxTold {
		f.vain++
		return
	}
	f.ignored = append(f.ignored, name)
}

// unread are the members that nobody reads.
func (f *yamlFile) unread() []string {
	if f.vain > 0 {
		return append(f.ignored, fmt.Sprintf("and each of %d more", f.vain))
	}
	return f.ignored
}

// linesBelow are the lines of all that is in something, by paths that begin there.
func (f *yamlFile) linesBelow(at string) map[string]int {
	m := map[string]int{}
	for path, line := range f.lines {
		if path == at {
			m[""] = line
		} else if rest, ok := strings.CutPrefix(path, at+"."); ok {
			m[rest] = line
		}
	}
	return m
}

// bad notes what is wrong with something, with its line.
func (f *yamlFile) bad(path, kind, format string, a ...any) {
	if len(f.inv.Fields) == maxTold {
		f.more++
		return
	}
	text := fmt.Sprintf(format, a...)
	for at := path; at != ""; at = at[:max(0, strings.LastIndexByte(at, '.'))] {
		if line, ok := f.lines[at]; ok {
			text = fmt.Sprintf("line %d: %s", line, text)
			break
		}
	}
	f.inv.Add(path, kind, text)
}

// value turns a node into what JSON would have given.
func (f *yamlFile) value(n *yaml.Node, path string, deep int) any {
	if _, ok := f.lines[path]; !ok {
		f.lines[path] = n.Line
	}
	if f.left--; f.left < 0 || deep > maxDeep {
		if f.left > -2 || deep > maxDeep {
			f.bad(path, "maximum", "there is too much in the file")
		}
		f.left = min(f.left, -2)
		return nil
	}
	switch n.Kind {
	case yaml.AliasNode:
		return f.value(n.Alias, path, deep+1)
	case yaml.SequenceNode:
		l := []any{}
		for i, e := range n.Content {
			if f.left < 0 {
				break
			}
			l = append(l, f.value(e, path+"."+strconv.Itoa(i), deep+1))
		}
		return l
	case yaml.MappingNode:
		return f.mapping(n, path, deep)
	case yaml.ScalarNode:
		return f.scalar(n, path)
	}
	return nil
}

func (f *yamlFile) mapping(n *yaml.Node, path string, deep int) any {
	m := map[string]any{}
	for i := 0; i+1 < len(n.Content) && f.left >= 0; i += 2 {
		key := n.Content[i]
		if len(key.Value) > maxWord {
			f.bad(path, "maximum", "the word before a : has at most %d characters", maxWord)
			continue
		}
		at := path + "." + key.Value
		f.lines[at] = key.Line
		_, double := m[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode:
			f.bad(path, "format", "a word must stand before :")
			continue
		case key.Value == "<<":
			f.bad(at, "unsupported", "is not supported: write out what is merged here")
			continue
		case double:
			f.bad(at, "format", "is there twice")
			continue
		}
		m[key.Value] = f.value(n.Content[i+1], at, deep+1)
	}
	return m
}

func (f *yamlFile) scalar(n *yaml.Node, path string) any {
	switch n.ShortTag() {
	case "!!str", "!!timestamp":
		return n.Value
	case "!!null":
		return nil
	case "!!bool":
		var b bool
		if n.Decode(&b) == nil {
			return b
		}
	case "!!int":
		var i int64
		if n.Decode(&i) == nil {
			return i
		}
	case "!!float":
		var x float64
		if n.Decode(&x) == nil {
			if b, err := json.Marshal(x); err == nil { // no infinity
				return json.RawMessage(b)
			}
		}
	}
	f.bad(path, "type", "is no value that can stand here")
	return nil
}

// definition reads one pipeline of the list; what is not said is as in p.
func (f *yamlFile) definition(at string, v any, p pipe) (d pipeline.Definition) {
	d.Pipeline = p
	m, ok := v.(map[string]any)
	if !ok {
		f.bad(at, "type", "must be a pipeline")
		return d
	}
	id, _ := m["pipeline"].(string)
	if strings.TrimSpace(id) == "" {
		f.bad(at+".pipeline", "required", "is required, and a text")
	}
	// Older files have the name there.
	if _, named := m["name"]; !named {
		m["name"] = id
	}
	if pipeline.IsIdentifier(id) {
		m["identifier"] = id
	}
	actions := m["actions"]
	delete(m, "pipeline")
	delete(m, "actions")
	for _, name := range pipeline.Starters() {
		if v, ok := m[name]; ok && v != nil {
			d.Says = append(d.Says, name)
		}
	}
	dec := &decoder{}
	unknown, err := readPipeline(dec, f.body(m), &d.Pipeline)
	f.note(at, dec, d.Pipeline.Validate, unknown, err)
	if actions == nil {
		return d
	}
	all, ok := actions.([]any)
	if !ok {
		f.bad(at+".actions", "type", "must be a list")
	}
	for i, v := range all {
		d.Actions = append(d.Actions, f.action(at+".actions."+strconv.Itoa(i), v))
	}
	return d
}

func (f *yamlFile) action(at string, v any) action {
	m, ok := v.(map[string]any)
	if !ok {
		f.bad(at, "type", "must be an action")
		return action{}
	}
	typ, _ := m["type"].(string)
	a, ok := newAction(typ)
	if !ok {
		f.bad(at+".type", "enum", "must be one of %s, %s, %s", typeRun, typeBuild, typeMulti)
		return a
	}
	if name, ok := m["action"]; ok {
		m["name"] = name
	}
	if s, _ := m["name"].(string); s == "" {
		f.bad(at+".action", "required", "is required, and a text")
		m["name"] = "unnamed"
	}
	delete(m, "action")
	b := f.body(m)
	dec := &decoder{}
	unknown, err := readAction(dec, b, &a, kindOf(&a))
	requireCommands(dec, b, &a)
	f.note(at, dec, a.Validate, unknown, err)
	return a
}

// body is an object as the decoder takes it.
func (f *yamlFile) body(m map[string]any) body {
	b := body{}
	for name, v := range m {
		b[name], _ = json.Marshal(v) // of values that JSON has
	}
	return b
}

// note takes over what a decoder and the core found wrong, and what is unknown.
func (f *yamlFile) note(at string, d *decoder, validate func(*project.Invalid), unknown []string, err error) {
	_ = d.checked(validate)
	for _, k := range d.inv.Fields {
		f.bad(strings.TrimSuffix(at+"."+k.Path, "."), k.Kind, "%s", k.Message)
	}
	if err != nil {
		f.bad(at, "format", "%s", err)
	}
	for _, name := range unknown {
		f.ignore(at + "." + name)
	}
}

// twice finds pipelines that would be the same one.
func (f *yamlFile) twice(list []pipeline.Definition) {
	have := map[string]bool{}
	for i, d := range list {
		id := or(d.Pipeline.Identifier, "name "+d.Pipeline.Name)
		if have[id] {
			f.bad("pipelines."+strconv.Itoa(i)+".pipeline", "conflict", "is there twice")
		}
		have[id] = true
	}
}

// WriteYAML writes pipelines as a file of which ReadYAML makes the same ones. It
// has what is not as it would be without being said. Hidden values are
// !encrypted: read again for the same pipeline, they stay.
func WriteYAML(list ...pipeline.Definition) ([]byte, error) {
	file := &yaml.Node{Kind: yaml.SequenceNode}
	for _, d := range list {
		n, err := definitionNode(d)
		if err != nil {
			return nil, fmt.Errorf("pipeline %q as code: %w", d.Pipeline.Name, err)
		}
		file.Content = append(file.Content, n)
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(file); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}

func definitionNode(d pipeline.Definition) (*yaml.Node, error) {
	view := func(p *pipe) object {
		o := write(pipelineFields(), 0, p, said(p.Attrs))
		for i := range o {
			if o[i].name == "git_changeset_base" { // none is answered as LATEST_RUN, and is another one
				o[i].value = orNull(p.GitChangesetBase)
			}
		}
		return o
	}
	rest, err := needed(view(&d.Pipeline), func(b body) (object, error) {
		var p pipe
		_, err := readPipeline(&decoder{}, b, &p)
		return view(&p), err
	}, "name", "identifier")
	if err != nil {
		return nil, err
	}
	id, name := or(d.Pipeline.Identifier, d.Pipeline.Name), d.Pipeline.Name
	n := &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{text("pipeline"), text(id)}}
	if name != id {
		n.Content = append(n.Content, text("name"), text(name))
	}
	n.Content = append(n.Content, rest...)
	if len(d.Actions) == 0 {
		return n, nil
	}
	actions := &yaml.Node{Kind: yaml.SequenceNode}
	for i := range d.Actions {
		a, err := actionNode(&d.Actions[i])
		if err != nil {
			return nil, err
		}
		actions.Content = append(actions.Content, a)
	}
	n.Content = append(n.Content, text("actions"), actions)
	return n, nil
}

func actionNode(a *action) (*yaml.Node, error) {
	view := func(a *action) object { return write(actionFields(), kindOf(a), a, said(a.Attrs)) }
	rest, err := needed(view(a), func(b body) (object, error) {
		n, _ := newAction(typeOf(a))
		_, err := readAction(&decoder{}, b, &n, kindOf(&n))
		return view(&n), err
	}, "name", "inline_commands")
	if err != nil {
		return nil, err
	}
	n := &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{text("action"), text(a.Name), text("type"), text(typeOf(a))}}
	n.Content = append(n.Content, rest...)
	if a.Run != nil && (a.Run.Commands != "" || a.Run.Entrypoint == "") {
		n.Content = append(n.Content, text("inline_commands"), text(a.Run.Commands))
	}
	return n, nil
}

// said is what is kept of an object, without the empty values that were given:
// a file says what has an effect.
func said(attrs map[string]json.RawMessage) *kept {
	k := keptOf(attrs)
	k.Zero = nil
	return k
}

// needed gives the members, names and values in turn, without which what is read
// would not be answered the same; of their own members it leaves out those that
// are empty, if they may be. Others are left to who asks.
func needed(all object, read func(body) (object, error), others ...string) (l []*yaml.Node, err error) {
	b := body{}
	for _, m := range all {
		if b[m.name], err = json.Marshal(m.value); err != nil {
			return nil, err
		}
	}
	want, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	same := func() bool {
		o, err := read(b)
		if err != nil {
			return false
		}
		got, err := json.Marshal(o)
		return err == nil && bytes.Equal(got, want)
	}
	for _, m := range all {
		if slices.Contains(others, m.name) {
			continue
		}
		raw := b[m.name]
		delete(b, m.name)
		if same() {
			continue
		}
		n, err := jsonNode(raw)
		if err != nil {
			return nil, err
		}
		short := pruned(n)
		f := &yamlFile{lines: map[string]int{}, left: maxNodes}
		if b[m.name], err = json.Marshal(f.value(short, m.name, 0)); err != nil {
			return nil, err
		}
		if !same() {
			b[m.name], short = raw, n
		}
		l = append(l, text(m.name), short)
	}
	return l, nil
}

// pruned is a value without the empty members of the objects in it.
func pruned(n *yaml.Node) *yaml.Node {
	out := *n
	out.Content = nil
	for i := 0; i < len(n.Content); i++ {
		if n.Kind != yaml.MappingNode {
			out.Content = append(out.Content, pruned(n.Content[i]))
			continue
		}
		name, value := n.Content[i], pruned(n.Content[i+1])
		i++
		empty := len(value.Content) == 0 && (value.Kind != yaml.ScalarNode || value.Value == "" || value.Tag == "!!null" || value.Tag == "!!bool" && value.Value == "false")
		if !empty {
			out.Content = append(out.Content, name, value)
		}
	}
	return &out
}

// jsonNode turns a value of JSON into a node; members keep their order.
func jsonNode(raw json.RawMessage) (*yaml.Node, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return nextNode(d)
}

func nextNode(d *json.Decoder) (*yaml.Node, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch v := t.(type) {
	case json.Delim:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		if v == '{' {
			n.Kind = yaml.MappingNode
		}
		for d.More() {
			e, err := nextNode(d)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, e)
		}
		if len(n.Content) == 0 {
			n.Style = yaml.FlowStyle
		}
		_, err = d.Token()
		return n, err
	case string:
		return text(v), nil
	case json.Number:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: v.String()}, nil
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v)}, nil
	case nil:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
	}
	return nil, io.ErrUnexpectedEOF
}

// text is a string: as a block if it has lines that a block can hold, in quotes
// if it could be taken for something else.
func text(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if !strings.Contains(s, "\n") {
		return n
	}
	n.Style = yaml.LiteralStyle
	if s[0] == ' ' || s[0] == '\n' || strings.ContainsAny(s, "\t\r\u0085\u2028\u2029\ufeff") || strings.Contains(s, " \n") {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}
