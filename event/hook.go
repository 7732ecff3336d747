package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"slipway/access"
	"slipway/reach"
)

// Word says what a webhook is told of.
type Word string

// Words. A run that ends is told of by two of them.
const (
	OnPush       Word = "PUSH"
	OnStarted    Word = "EXECUTION_STARTED"
	OnSuccessful Word = "EXECUTION_SUCCESSFUL"
	OnFailed     Word = "EXECUTION_FAILED"
	OnFinished   Word = "EXECUTION_FINISHED"
)

// Words lists them all.
func Words() []Word { return []Word{OnPush, OnStarted, OnSuccessful, OnFailed, OnFinished} }

// Encrypted stands for a key that is there, in answers, and for the key as it
// is, in changes.
const Encrypted = "!encrypted"

// Hook is an address that is told what happens in a workspace.
type Hook struct {
	Number    int64
	Workspace string // UUID
	URL       string
	Events    []Word
	Projects  []HookProject // none: all
	Secret    string        // "" or Encrypted, but for who made it just now
	Created   time.Time
	Requests  []Request // the last 20, newest first; lists leave them out
}

// HookProject is a project that a hook is told of.
type HookProject struct {
	ID   string `json:"id"`   // UUID
	Name string `json:"name"` // as it was when it was chosen
}

// Request is one that was sent.
type Request struct {
	Sent   time.Time
	Status int    // of the answer, 0 if there was none
	Error  string // why it counts as failed
	Body   string // without the key
}

// Bounds of a hook.
const (
	maxURL     = 2048
	maxKey     = 4096
	maxChosen  = 1000 // projects
	maxRemains = 20   // requests that are kept
)

// Validate notes everything that is wrong with a hook. Addresses inside are
// allowed with private.
func (k Hook) Validate(private bool) error {
	var bad access.Invalid
	if err := checkURL(k.URL, private); err != nil {
		bad.Add("target_url", "format", err.Error())
	}
	if len(k.Events) == 0 {
		bad.Add("events", "required", "names no event")
	}
	for i, w := range k.Events {
		switch at := fmt.Sprintf("events.%d", i); {
		case !slices.Contains(Words(), w):
			bad.Add(at, "enum", "must be one of "+joined(Words()))
		case slices.Contains(k.Events[:i], w):
			bad.Add(at, "conflict", "is there twice")
		}
		if i > len(Words()) {
			break // nobody reads more
		}
	}
	if len(k.Projects) > maxChosen {
		bad.Add("projects", "maximum", fmt.Sprintf("must be at most %d", maxChosen))
	}
	if utf8.RuneCountInString(k.Secret) > maxKey {
		bad.Add("secret_key", "maximum", fmt.Sprintf("must be at most %d characters", maxKey))
	}
	return bad.Err()
}

func joined(words []Word) string {
	l := make([]string, len(words))
	for i, w := range words {
		l[i] = string(w)
	}
	return strings.Join(l, ", ")
}

// checkURL tells why an address cannot be told anything.
func checkURL(text string, private bool) error {
	switch {
	case text == "":
		return errors.New("is required")
	case len(text) > maxURL:
		return fmt.Errorf("must be at most %d bytes", maxURL)
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return errors.New("is not a URL")
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("is not a URL") // the cause would show what is in it
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("must begin with http:// or https://")
	case u.Hostname() == "":
		return errors.New("names no host")
	case u.User != nil:
		return errors.New("must not hold a login: secret_key says who sends")
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && !private && reach.Inside(ip) {
		return fmt.Errorf("leads to the private address %s, which this server does not allow", ip)
	}
	return nil
}

// kinds are those of the events that any hook is told of.
func kinds() []Kind { return []Kind{Pushed, ExecutionStarted, ExecutionFinished} }

// words gives those that a hook has for an event, in the order in which it is
// told of them.
func (k Hook) words(e Event) (l []Word) {
	if e.Workspace != k.Workspace ||
		len(k.Projects) > 0 && !slices.ContainsFunc(k.Projects, func(p HookProject) bool { return p.ID == e.Project }) {
		return nil
	}
	var all []Word
	switch e.Kind {
	case Pushed:
		all = []Word{OnPush}
	case ExecutionStarted:
		all = []Word{OnStarted}
	case ExecutionFinished:
		var end struct {
			Status string `json:"status"`
		}
		_ = json.Unmarshal(e.Data, &end) // ours; without a status it is just an end
		switch end.Status {
		case "SUCCESSFUL":
			all = []Word{OnSuccessful, OnFinished}
		case "FAILED":
			all = []Word{OnFailed, OnFinished}
		default:
			all = []Word{OnFinished}
		}
	}
	for _, w := range all {
		if slices.Contains(k.Events, w) {
			l = append(l, w)
		}
	}
	return l
}

// state is where a hook is in the outbox.
type state struct {
	seq   int64 // the last event that is done with
	part  int   // how many words of the next one are
	tries int   // that failed
	retry time.Time
}

// delivery is one request that is to be made.
type delivery struct {
	event Event
	word  Word
	last  bool // of the event's words
}

// next finds what a hook is to be told among events after its place, in order.
// Without it, seq is how far they are of no interest.
func (k Hook) next(at state, list []Event) (d delivery, seq int64, ok bool) {
	seq = at.seq
	part := at.part
	for _, e := range list {
		words := k.words(e)
		if part < len(words) {
			return delivery{e, words[part], part == len(words)-1}, seq, true
		}
		if len(words) > 0 { // the hook was changed: it has fewer now
			part = 0
		}
		seq = e.Seq
	}
	return delivery{}, seq, false
}

// patience is how old an event may be that is sent again after it failed.
const patience = 24 * time.Hour

// after says where a hook is when a request has been made. A receiver that takes
// nothing for a day does not get what is older: latest is the last event of the
// time before.
func (at state) after(d delivery, failed bool, latest int64, first time.Duration, now time.Time) state {
	switch {
	case failed && now.Sub(d.event.At) < patience:
		n := at
		n.tries++
		n.retry = now.Add(pause(n.tries, first))
		return n
	case failed:
		return state{seq: max(latest, d.event.Seq)}
	case d.last:
		return state{seq: d.event.Seq}
	}
	return state{seq: at.seq, part: at.part + 1}
}

// longPause is the longest time between two tries.
const longPause = time.Hour

// pause is how long to wait after so many failed tries.
func pause(tries int, first time.Duration) time.Duration {
	d := first
	for range tries - 1 {
		if d *= 2; d >= longPause {
			return longPause
		}
	}
	return d
}
