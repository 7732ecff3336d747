package local

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"slipway/engine"
	"slipway/logs/segment"
)

// buildLog writes the log of a build: a line for each step, what the step says
// as it says it, and how the step ended.
//
//	#3 [2/4] RUN make
//	cc -o hello hello.c
//	#3 DONE 1.2s
//	#4 [3/4] COPY page /page CACHED
type buildLog struct {
	secrets [][]byte

	mu    sync.Mutex
	w     *segment.Writer // nil: no log is wanted
	mask  *segment.Masker
	steps map[digest.Digest]*logged
	order []*logged
	said  *logged                 // whose output came last
	used  map[string]engine.Usage // by step
}

// logged is a step as far as it was told of.
type logged struct {
	number   int
	name     string
	hidden   bool // of the machinery
	printed  bool
	vertex   client.Vertex // the last report
	finished bool
	streams  map[int]*pending
}

// pending is the unfinished line of a stream.
type pending struct {
	mask *segment.Masker
	line []byte
}

func openBuildLog(dir string, limit int64, secrets [][]byte) (*buildLog, error) {
	l := &buildLog{secrets: secrets, steps: map[digest.Digest]*logged{}, used: map[string]engine.Usage{}, mask: segment.NewMasker(secrets)}
	if dir == "" {
		return l, nil
	}
	w, err := segment.Open(dir, segment.Options{Max: limit})
	if err != nil {
		return nil, fmt.Errorf("the log: %w", err)
	}
	l.w = w
	return l, nil
}

// close makes the log durable.
func (l *buildLog) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.w == nil {
		return nil
	}
	return l.w.Close()
}

// note writes a line of ours.
func (l *buildLog) note(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.line('m', text)
}

func (l *buildLog) line(stream byte, text string) {
	if l.w != nil {
		l.w.Line(stream, l.mask.Line([]byte(text)))
	}
}

// masked is a text without secrets.
func (l *buildLog) masked(text string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.mask.Line([]byte(text)))
}

// follow writes what a solve reports, until its end.
func (l *buildLog) follow(reports <-chan *client.SolveStatus) {
	for r := range reports {
		l.mu.Lock()
		for _, v := range r.Vertexes {
			l.vertex(v)
		}
		for _, s := range r.Statuses {
			if s.Name == usedWord {
				l.used[s.ID] = engine.Usage{Memory: s.Total, CPU: time.Duration(s.Current) * time.Microsecond}
			}
		}
		for _, o := range r.Logs {
			l.output(o)
		}
		for _, w := range r.Warnings {
			l.line('m', "warning: "+string(w.Short))
		}
		l.mu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.order {
		l.flush(s)
	}
}

// vertex takes a report of a step. A step may be reported as cached first and
// run then, so its end is told once, when it is sure: see finish.
func (l *buildLog) vertex(v *client.Vertex) {
	s := l.steps[v.Digest]
	if s == nil {
		s = &logged{name: strings.ReplaceAll(v.Name, "\n", " "), hidden: strings.HasPrefix(v.Name, "[internal]") || strings.HasPrefix(v.Name, importWord), streams: map[int]*pending{}}
		l.steps[v.Digest] = s
		l.order = append(l.order, s)
	}
	s.vertex = *v
	if s.hidden || v.Started == nil {
		return
	}
	if v.Completed == nil {
		if !s.printed {
			l.head(s, "")
		}
		return
	}
	if v.Error != "" && !s.printed && strings.Contains(v.Error, "context canceled") {
		return // it had not really begun
	}
	switch {
	case s.finished:
	case v.Cached && !s.printed:
		l.head(s, " CACHED")
		s.finished = true
	case v.Cached:
		l.flush(s)
		l.line('o', fmt.Sprintf("#%d CACHED", s.number))
		s.finished = true
	default:
		if !s.printed {
			l.head(s, "")
		}
		l.flush(s)
		took := v.Completed.Sub(*v.Started).Round(time.Millisecond).Seconds()
		if v.Error != "" {
			l.line('o', fmt.Sprintf("#%d ERROR after %.1fs", s.number, took))
		} else {
			l.line('o', fmt.Sprintf("#%d DONE %.1fs", s.number, took))
		}
		s.finished = true
	}
}

func (l *buildLog) head(s *logged, end string) {
	l.number(s)
	s.printed = true
	l.line('o', fmt.Sprintf("#%d %s%s", s.number, s.name, end))
	l.said = s
}

func (l *buildLog) number(s *logged) {
	if s.number > 0 {
		return
	}
	for _, o := range l.order {
		s.number = max(s.number, o.number)
	}
	s.number++
}

// output writes what a step says. When several run at a time a line before it
// tells whose it is.
func (l *buildLog) output(o *client.VertexLog) {
	s := l.steps[o.Vertex]
	if s == nil || s.hidden {
		return
	}
	if l.said != s {
		l.head(s, "")
	}
	p := s.streams[o.Stream]
	if p == nil {
		p = &pending{mask: segment.NewMasker(l.secrets)}
		s.streams[o.Stream] = p
	}
	l.lines(o.Stream, p, p.mask.Feed(o.Data, false))
}

func (l *buildLog) lines(stream int, p *pending, b []byte) {
	kind := byte('o')
	if stream == 2 {
		kind = 'e'
	}
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			break
		}
		p.line = append(p.line, b[:i]...)
		l.raw(kind, p.line)
		p.line = p.line[:0]
		b = b[i+1:]
	}
	p.line = append(p.line, b...)
	if len(p.line) > segment.MaxLine {
		l.raw(kind, p.line)
		p.line = nil
	}
}

// raw writes a line that is masked already.
func (l *buildLog) raw(stream byte, text []byte) {
	if l.w != nil {
		l.w.Line(stream, bytes.TrimSuffix(text, []byte("\r")))
	}
}

// flush writes what is left of the lines of a step.
func (l *buildLog) flush(s *logged) {
	for stream, p := range s.streams {
		l.lines(stream, p, p.mask.Feed(nil, true))
		if len(p.line) > 0 {
			kind := byte('o')
			if stream == 2 {
				kind = 'e'
			}
			l.raw(kind, p.line)
		}
		delete(s.streams, stream)
	}
}

// counted are the steps of the Dockerfile that were needed, and those of them
// that the cache had.
func (l *buildLog) counted() (steps, cached int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.order {
		if s.hidden || !strings.HasPrefix(s.name, "[") || strings.Contains(s.name, "] FROM ") || s.vertex.Completed == nil || s.vertex.Error != "" {
			continue
		}
		steps++
		if s.vertex.Cached {
			cached++
		}
	}
	return steps, cached
}

// usage is what the commands of the steps have used.
func (l *buildLog) usage() (sum engine.Usage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, u := range l.used {
		sum.CPU += u.CPU
		sum.Memory = max(sum.Memory, u.Memory)
	}
	return sum
}

// step says which step a vertex is: "#3 [2/4] RUN make".
func (l *buildLog) step(vertex string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.steps[digest.Digest(vertex)]
	if s == nil {
		return ""
	}
	if s.hidden {
		return s.name
	}
	l.number(s)
	return fmt.Sprintf("#%d %s", s.number, s.name)
}
