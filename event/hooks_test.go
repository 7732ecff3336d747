package event

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/db"
)

// box seals by saying for which row.
type box struct{}

func (box) Seal(text []byte, row string) ([]byte, error) {
	return []byte(row + "|" + string(text)), nil
}

func (box) Open(sealed []byte, row string) ([]byte, error) {
	text, ok := bytes.CutPrefix(sealed, []byte(row+"|"))
	if !ok {
		return nil, errors.New("of another row")
	}
	return text, nil
}

// got is what a receiver was sent.
type got struct {
	word, delivery, signature string
	body                      map[string]any
	raw                       []byte
}

// receiver collects what it is sent; answer says with which status.
type receiver struct {
	*httptest.Server
	mu   sync.Mutex
	list []got
}

func newReceiver(t testing.TB, answer func(n int, w http.ResponseWriter)) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		raw, _ := io.ReadAll(q.Body)
		g := got{q.Header.Get("X-Slipway-Event"), q.Header.Get("X-Slipway-Delivery"), q.Header.Get("X-Slipway-Signature"), nil, raw}
		if err := json.Unmarshal(raw, &g.body); err != nil || q.Header.Get("Content-Type") != "application/json" || q.Method != http.MethodPost {
			t.Errorf("%s %s: %v", q.Method, raw, err)
		}
		r.mu.Lock()
		r.list = append(r.list, g)
		n := len(r.list)
		r.mu.Unlock()
		if answer != nil {
			answer(n, w)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) all() []got {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list)
}

// words are those that it was sent, with the subject of each.
func (r *receiver) words() (l []string) {
	for _, g := range r.all() {
		l = append(l, fmt.Sprint(g.word, " ", g.body["subject"]))
	}
	return l
}

var root = access.System(access.User{ID: 1})

func tenants(t testing.TB, d *db.DB) {
	t.Helper()
	err := d.Write(context.Background(), func(tx *db.Tx) error {
		if _, err := tx.Exec(`INSERT INTO users (id, uuid, username, created) VALUES (1, 'u', 'ann', 1)`); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO workspaces (id, number, domain, name, owner, created) VALUES ('w', 1, 'team', 'Team', 1, 1), ('v', 2, 'other', 'Other', 1, 1)`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func payload(_ context.Context, e Event) ([]byte, error) {
	if e.Subject == "gone" {
		return nil, errdefs.ErrNotFound
	}
	return json.Marshal(map[string]any{"subject": e.Subject})
}

// hooks are those of a new store, running.
func hooks(t testing.TB, d *db.DB, private bool) *Hooks {
	t.Helper()
	h := NewHooks(HookConfig{Private: private, Owner: "test", Payload: payload}, d, box{})
	h.first = time.Millisecond
	return h
}

func (h *Hooks) running(t testing.TB) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel(errors.New("the test is over"))
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// happen writes an event of a run or a push.
func happen(t testing.TB, d *db.DB, k Kind, workspace, project, subject, status string) {
	t.Helper()
	err := d.Write(context.Background(), func(tx *db.Tx) error {
		return Write(tx, Event{Kind: k, Workspace: workspace, Project: project, Subject: subject}, map[string]string{"status": status})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func make1(t testing.TB, h *Hooks, k Hook) Hook {
	t.Helper()
	made, err := h.Create(t.Context(), root, k.Workspace, func(to *Hook) error { *to = k; return nil })
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestHooksAreTold(t *testing.T) {
	t.Parallel()
	d := store(t)
	tenants(t, d)
	h := hooks(t, d, true)
	r, some := newReceiver(t, nil), newReceiver(t, nil)
	happen(t, d, Pushed, "w", "p", "before", "")
	all := make1(t, h, Hook{Workspace: "w", URL: r.URL + "/a?b=c", Events: Words(), Secret: `key "quoted"`})
	if all.Secret != `key "quoted"` || all.Number == 0 {
		t.Errorf("made %+v", all)
	}
	make1(t, h, Hook{Workspace: "w", URL: some.URL, Events: []Word{OnFinished, OnPush}, Projects: []HookProject{{"p", "web"}}})
	h.running(t)
	happen(t, d, Pushed, "w", "p", "push", "")
	happen(t, d, ExecutionStarted, "w", "q", "one", "INPROGRESS")
	happen(t, d, StackChanged, "w", "q", "none", "")
	happen(t, d, ExecutionFinished, "w", "q", "one", "SUCCESSFUL")
	happen(t, d, Pushed, "v", "x", "elsewhere", "")
	happen(t, d, Pushed, "w", "p", "gone", "")
	happen(t, d, ExecutionFinished, "w", "p", "two", "FAILED")
	happen(t, d, ExecutionFinished, "w", "p", "three", "TERMINATED")
	want := []string{
		"PUSH push", "EXECUTION_STARTED one", "EXECUTION_SUCCESSFUL one", "EXECUTION_FINISHED one", "EXECUTION_FAILED two", "EXECUTION_FINISHED two",
		"EXECUTION_FINISHED three",
	}
	until(t, "all is told", func() bool { return len(r.all()) >= len(want) && len(some.all()) >= 3 })
	if l := r.words(); !slices.Equal(l, want) {
		t.Errorf("told %q", l)
	}
	if l := some.words(); !slices.Equal(l, []string{"PUSH push", "EXECUTION_FINISHED two", "EXECUTION_FINISHED three"}) {
		t.Errorf("of one project: %q", l)
	}
	ids := map[string]bool{}
	for _, g := range r.all() {
		ids[g.delivery] = true
		if g.body["secret_key"] != `key "quoted"` || g.signature != "sha256="+Signature([]byte(`key "quoted"`), g.raw) {
			t.Errorf("%s: %s", g.signature, g.raw)
		}
	}
	if g := some.all()[0]; len(ids) != len(want) || g.signature != "" || len(g.body) != 1 {
		t.Errorf("%v, %+v", ids, g)
	}
	var k Hook
	until(t, "all is kept", func() bool {
		var err error
		if k, err = h.Get(t.Context(), root, "w", all.Number); err != nil {
			t.Fatal(err)
		}
		return len(k.Requests) == len(want)
	})
	if q := k.Requests[0]; k.Secret != Encrypted || q.Status != 200 || q.Error != "" || q.Body != `{"subject":"three"}` || q.Sent.IsZero() {
		t.Errorf("%+v", k)
	}
	// The last twenty are kept.
	for i := range 30 {
		happen(t, d, Pushed, "w", "q", fmt.Sprint(i), "")
	}
	until(t, "thirty more", func() bool {
		k, _ = h.Get(t.Context(), root, "w", all.Number)
		return len(k.Requests) > 0 && k.Requests[0].Body == `{"subject":"29"}`
	})
	if len(k.Requests) != 20 || k.Requests[19].Body != `{"subject":"10"}` {
		t.Errorf("%d are kept", len(k.Requests))
	}
	until(t, "what none wants is passed", func() bool {
		var left int64
		err := d.Read(t.Context(), func(tx *db.Tx) error { return tx.QueryRow(`SELECT MAX(seq) - MIN(seq) FROM events`).Scan(&left) })
		return err == nil && left > 0
	})
}

func TestHookIsToldAgain(t *testing.T) {
	t.Parallel()
	d := store(t)
	tenants(t, d)
	h := hooks(t, d, true)
	r := newReceiver(t, func(n int, w http.ResponseWriter) {
		switch n {
		case 1:
			w.WriteHeader(http.StatusInternalServerError)
		case 2:
			w.Header().Set("Location", "/elsewhere") // nobody follows
			w.WriteHeader(http.StatusTemporaryRedirect)
		case 3:
			panic(http.ErrAbortHandler)
		}
	})
	k := make1(t, h, Hook{Workspace: "w", URL: r.URL, Events: []Word{OnPush}})
	h.running(t)
	happen(t, d, Pushed, "w", "p", "one", "")
	happen(t, d, Pushed, "w", "p", "two", "")
	until(t, "both arrive", func() bool { return len(r.all()) == 5 })
	if l := r.words(); !slices.Equal(l, []string{"PUSH one", "PUSH one", "PUSH one", "PUSH one", "PUSH two"}) {
		t.Errorf("told %q", l)
	}
	for i, g := range r.all()[:4] {
		if g.delivery != r.all()[0].delivery {
			t.Errorf("try %d is delivery %s", i, g.delivery)
		}
	}
	until(t, "all is kept", func() bool { k, _ = h.Get(t.Context(), root, "w", k.Number); return len(k.Requests) == 5 })
	var said []string
	for _, q := range slices.Backward(k.Requests) {
		said = append(said, fmt.Sprint(q.Status, " ", q.Error != ""))
	}
	if !slices.Equal(said, []string{"500 true", "307 true", "0 true", "200 false", "200 false"}) {
		t.Errorf("%q", said)
	}
}

// A receiver that answers slowly, or without end, keeps nobody.
func TestHookWaitsForNobody(t *testing.T) {
	t.Parallel()
	d := store(t)
	tenants(t, d)
	h := hooks(t, d, true)
	h.direct.Timeout = time.Second
	gone := make(chan struct{})
	slow := newReceiver(t, func(n int, _ http.ResponseWriter) {
		if n == 1 {
			<-gone
		}
	})
	defer close(gone)
	endless := newReceiver(t, func(_ int, w http.ResponseWriter) {
		for range 1 << 20 {
			if _, err := w.Write(bytes.Repeat([]byte("x"), 1024)); err != nil {
				return
			}
		}
	})
	a := make1(t, h, Hook{Workspace: "w", URL: slow.URL, Events: []Word{OnPush}})
	b := make1(t, h, Hook{Workspace: "w", URL: endless.URL, Events: []Word{OnPush}})
	h.running(t)
	happen(t, d, Pushed, "w", "p", "one", "")
	until(t, "both are told", func() bool {
		a, _ = h.Get(t.Context(), root, "w", a.Number)
		b, _ = h.Get(t.Context(), root, "w", b.Number)
		return len(a.Requests) == 2 && len(b.Requests) == 1
	})
	if a.Requests[1].Status != 0 || a.Requests[1].Error == "" || a.Requests[0].Status != 200 || b.Requests[0].Status != 200 {
		t.Errorf("%+v, %+v", a.Requests, b.Requests)
	}
}

func TestHookGivesUp(t *testing.T) {
	t.Parallel()
	d := store(t)
	tenants(t, d)
	h := hooks(t, d, true)
	r := newReceiver(t, func(n int, w http.ResponseWriter) {
		if n == 1 {
			w.WriteHeader(http.StatusBadGateway)
		}
	})
	k := make1(t, h, Hook{Workspace: "w", URL: r.URL, Events: []Word{OnPush}})
	for _, s := range []string{"old", "also old", "new"} {
		happen(t, d, Pushed, "w", "p", s, "")
	}
	err := d.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec(`UPDATE events SET at = at - ? WHERE subject LIKE '%old'`, (25 * time.Hour).Microseconds())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	h.running(t)
	until(t, "the new one arrives", func() bool { k, _ = h.Get(t.Context(), root, "w", k.Number); return len(k.Requests) == 2 })
	if l := r.words(); !slices.Equal(l, []string{"PUSH old", "PUSH new"}) {
		t.Errorf("told %q", l)
	}
	if now, first := time.Now(), time.Second; pause(1, first) != first || pause(3, first) != 4*first || pause(99, first) != longPause {
		t.Error("pauses", pause(3, first))
	} else if at := (state{seq: 3, part: 1}).after(delivery{Event{Seq: 5, At: now}, OnPush, false}, true, 0, first, now); at != (state{3, 1, 1, now.Add(first)}) {
		t.Errorf("%+v", at)
	}
}

// Without the setting no address inside is spoken to, by whatever name.
func TestHookStaysOutside(t *testing.T) {
	t.Parallel()
	d := store(t)
	tenants(t, d)
	h := hooks(t, d, false)
	r := newReceiver(t, nil)
	for _, url := range []string{r.URL, "http://[::1]/", "http://169.254.169.254/latest", "http://10.0.0.1"} {
		_, err := h.Create(t.Context(), root, "w", func(k *Hook) error { k.URL, k.Events = url, Words(); return nil })
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "target_url") {
			t.Errorf("%s: %v", url, err)
		}
	}
	k := make1(t, h, Hook{Workspace: "w", URL: strings.Replace(r.URL, "127.0.0.1", "localhost", 1), Events: []Word{OnPush}})
	stop := h.running(t)
	happen(t, d, Pushed, "w", "p", "one", "")
	until(t, "it is tried", func() bool { k, _ = h.Get(t.Context(), root, "w", k.Number); return len(k.Requests) > 1 })
	stop()
	if q := k.Requests[0]; q.Status != 0 || !strings.Contains(q.Error, "private address") || len(r.all()) != 0 {
		t.Errorf("%+v, %d requests", q, len(r.all()))
	}
}

func TestHookFrontDoor(t *testing.T) {
	t.Parallel()
	d := store(t)
	tenants(t, d)
	h := hooks(t, d, true)
	ctx := t.Context()
	for _, c := range []struct {
		k    Hook
		want string
	}{
		{Hook{}, "target_url: is required|events: names no event"},
		{Hook{URL: "ftp://x/y", Events: []Word{"NEVER", OnPush, OnPush}, Secret: Encrypted}, "target_url: must begin|events.0: must be one of|events.2: is there twice|secret_key: there is no key"},
		{Hook{URL: "http://u:p@x/", Events: Words(), Secret: strings.Repeat("é", 4097)}, "target_url: must not hold a login|secret_key: must be at most 4096"},
		{Hook{URL: "http:///x", Events: Words()}, "target_url: names no host"},
		{Hook{URL: "http://x/" + strings.Repeat("y", 3000), Events: Words()}, "target_url: must be at most"},
		{Hook{URL: "http://x y/", Events: Words()}, "target_url: is not a URL"},
		{Hook{URL: "https://x/", Events: Words(), Projects: make([]HookProject, 1001)}, "projects: must be at most"},
	} {
		_, err := h.Create(ctx, root, "w", func(k *Hook) error { c.k.Workspace = k.Workspace; *k = c.k; return nil })
		var bad *access.Invalid
		if !errors.As(err, &bad) || len(bad.Fields) != len(strings.Split(c.want, "|")) {
			t.Errorf("%+v: %v", c.k, err)
			continue
		}
		for _, w := range strings.Split(c.want, "|") {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q is not in %q", w, err)
			}
		}
	}
	k := make1(t, h, Hook{Workspace: "w", URL: "https://example.com/x", Events: []Word{OnPush}, Secret: "open sesame"})
	now, err := h.Update(ctx, root, "w", k.Number, func(k *Hook) error { k.Events = Words(); return nil })
	if err != nil || now.Secret != Encrypted || len(now.Events) != 5 || now.Created != k.Created {
		t.Errorf("%+v, %v", now, err)
	}
	if now, err = h.Update(ctx, root, "w", k.Number, func(k *Hook) error { k.Secret = ""; return nil }); err != nil || now.Secret != "" {
		t.Errorf("%+v, %v", now, err)
	}
	if _, err = h.Update(ctx, root, "w", k.Number, func(k *Hook) error { k.Secret = Encrypted; return nil }); !errdefs.IsInvalidArgument(err) {
		t.Errorf("the key of none: %v", err)
	}
	list, err := h.List(ctx, root, "w")
	if err != nil || len(list) != 1 || list[0].URL != k.URL || list[0].Requests != nil {
		t.Errorf("%+v, %v", list, err)
	}
	for _, err := range []error{
		second(h.Get(ctx, root, "v", k.Number)),
		second(h.Get(ctx, access.Actor{}, "w", k.Number)),
		second(h.List(ctx, access.Actor{}, "w")),
		second(h.Create(ctx, access.Actor{}, "w", nil)),
		second(h.Update(ctx, root, "v", k.Number, nil)),
		h.Delete(ctx, root, "v", k.Number),
		h.Delete(ctx, access.Actor{}, "w", k.Number),
	} {
		if !errdefs.IsNotFound(err) {
			t.Errorf("from elsewhere: %v", err)
		}
	}
	if err := h.Delete(ctx, root, "w", k.Number); err != nil {
		t.Error(err)
	}
	if err := h.Delete(ctx, root, "w", k.Number); !errdefs.IsNotFound(err) {
		t.Errorf("deleted twice: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// What a hook was not told yet is not pruned.
func TestHookKeepsEvents(t *testing.T) {
	t.Parallel()
	d := store(t)
	tenants(t, d)
	h := hooks(t, d, true)
	k := make1(t, h, Hook{Workspace: "w", URL: "https://example.com/x", Events: []Word{OnPush}})
	happen(t, d, Pushed, "w", "p", "one", "")
	left := func() int {
		if err := New(d).Prune(t.Context(), -time.Hour); err != nil {
			t.Fatal(err)
		}
		l, err := New(d).After(t.Context(), 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		return len(l)
	}
	if left() != 1 {
		t.Error("it is pruned")
	}
	if err := h.Delete(t.Context(), root, "w", k.Number); err != nil {
		t.Fatal(err)
	}
	if left() != 0 {
		t.Error("it stays")
	}
}
