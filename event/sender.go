package event

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"slipway/crash"
	"slipway/db"
	"slipway/reach"
)

// Bounds of a request to a webhook.
const (
	answerTime = 10 * time.Second
	answerSize = 64 << 10 // what is more is not read
	hands      = 8        // hooks that are told at the same time
	few        = 50       // events that are looked at for the next request
)

// Headers of a request. The delivery is the same for all tries of one.
const (
	headerEvent     = "X-Slipway-Event"
	headerDelivery  = "X-Slipway-Delivery"
	headerSignature = "X-Slipway-Signature"
)

// client speaks to webhooks: directly, and then to no address inside, or through
// the proxy of the environment, which looks the name up itself.
func client(private, proxied bool) *http.Client {
	d := &net.Dialer{Timeout: answerTime}
	t := &http.Transport{
		DialContext: d.DialContext, TLSHandshakeTimeout: answerTime, MaxIdleConns: 32, MaxIdleConnsPerHost: 1, IdleConnTimeout: 30 * time.Second,
		MaxResponseHeaderBytes: answerSize, ForceAttemptHTTP2: true,
	}
	if proxied {
		t.Proxy = http.ProxyFromEnvironment
	} else if !private {
		d.Control = reach.Outside
	}
	return &http.Client{
		Transport: t, Timeout: answerTime,
		// Where a redirect leads was looked at by nobody.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Run tells the hooks what happens until ctx ends.
func (h *Hooks) Run(ctx context.Context) error {
	defer h.direct.CloseIdleConnections()
	defer h.proxy.CloseIdleConnections()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { h.notice(ctx) })
	return h.db.Work(ctx, db.Work{Table: "webhooks", Owner: h.cfg.Owner, N: hands, Handle: h.Handle})
}

// notice makes the hooks of a workspace due when something happens there, and
// all of them now and once an hour: what none of them wants is passed then, so
// that it can be pruned.
func (h *Hooks) notice(ctx context.Context) {
	wake, stop := h.db.Watch(Topic)
	defer stop()
	hour := time.NewTicker(time.Hour)
	defer hour.Stop()
	all, seen := true, int64(0)
	for {
		last, err := h.due(ctx, seen, all)
		if err != nil && ctx.Err() == nil {
			slog.ErrorContext(ctx, "webhooks are not told yet", "room", "event", "error", err)
			select { // more events do not mend it
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		all, seen = false, last
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-hour.C:
			all = true
		}
	}
}

// due makes hooks due: all, or those of workspaces where something happened since
// an event. It gives the last event there is.
func (h *Hooks) due(ctx context.Context, since int64, all bool) (last int64, err error) {
	var ids []string
	err = h.db.Read(ctx, func(tx *db.Tx) error {
		if err := tx.QueryRow(`SELECT COALESCE(MAX(seq), 0) FROM events`).Scan(&last); err != nil {
			return err
		}
		query, args := `SELECT id FROM webhooks`, []any(nil)
		if !all {
			where, of := ofKinds(kinds())
			query += ` WHERE workspace IN (SELECT workspace FROM events WHERE seq > ?` + where + `)`
			args = append([]any{since}, of...)
		}
		ids, err = db.Column[string](tx, query, args...)
		return err
	})
	if err != nil || len(ids) == 0 {
		return last, err
	}
	return last, h.db.Write(ctx, func(tx *db.Tx) error {
		for _, id := range ids {
			if err := tx.Due("webhooks", id, tx.Now); err != nil {
				return err
			}
		}
		return nil
	})
}

// Handle makes the next request of a hook, if there is one, and says when to
// look again. A kill between the request and what is written of it sends it once
// more, under the same delivery.
func (h *Hooks) Handle(ctx context.Context, l db.Lease) (again time.Time, err error) {
	var k Hook
	var at state
	var sealed []byte
	var list []Event
	var end int64
	err = h.db.Read(ctx, func(tx *db.Tx) error {
		if k, at, sealed, err = loadSending(tx, l.ID); err != nil {
			return err
		}
		if err := tx.QueryRow(`SELECT COALESCE(MAX(seq), 0) FROM events`).Scan(&end); err != nil {
			return err
		}
		where, args := ofKinds(kinds())
		list, err = fetch(tx, at.seq, few, " AND workspace = ?"+where, append([]any{k.Workspace}, args...)...)
		return err
	})
	switch {
	case errors.Is(err, sql.ErrNoRows): // it is gone
		return time.Time{}, nil
	case err != nil:
		return time.Time{}, fmt.Errorf("webhook %s: %w", l.ID, err)
	case at.retry.After(time.Now()): // news do not make it sooner
		return at.retry, nil
	}
	d, passed, ok := k.next(at, list)
	if !ok && len(list) < few {
		passed = end
	}
	if !ok {
		if passed-at.seq > lag || len(list) == few {
			err = h.keep(ctx, l, k, state{seq: passed}, nil)
		}
		if len(list) == few {
			again = time.Now()
		}
		return again, err
	}
	at.seq = passed
	body, err := h.cfg.Payload(ctx, d.event)
	if errdefs.IsNotFound(err) {
		return time.Now(), h.keep(ctx, l, k, state{seq: d.event.Seq}, nil)
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("webhook %d, event %d: %w", k.Number, d.event.Seq, err)
	}
	key, err := h.key(sealed, l.ID)
	if err != nil {
		return time.Time{}, err
	}
	r := h.send(ctx, k, d, key, body)
	if ctx.Err() != nil && r.Error != "" { // we are going: it did not fail
		return time.Time{}, context.Cause(ctx)
	}
	return h.sent(context.WithoutCancel(ctx), l, k, at, d, r)
}

func (h *Hooks) key(sealed []byte, id string) ([]byte, error) {
	if len(sealed) == 0 {
		return nil, nil
	}
	return h.box.Open(sealed, sealedFor(id))
}

// sent writes down how a request went, and where the hook is with it.
func (h *Hooks) sent(ctx context.Context, l db.Lease, k Hook, at state, d delivery, r Request) (time.Time, error) {
	now := time.Now()
	latest := int64(0)
	if r.Error != "" && now.Sub(d.event.At) >= patience {
		err := h.db.Read(ctx, func(tx *db.Tx) error {
			return tx.QueryRow(`SELECT COALESCE(MAX(seq), 0) FROM events WHERE at <= ?`, now.Add(-patience).UnixMicro()).Scan(&latest)
		})
		if err != nil {
			return time.Time{}, err
		}
		slog.WarnContext(ctx, "a webhook takes nothing: what is older than a day is not sent to it any more", "room", "event", "id", k.Number, "error", r.Error)
	}
	next := at.after(d, r.Error != "", latest, h.first, now)
	if err := h.keep(ctx, l, k, next, &r); err != nil {
		return time.Time{}, err
	}
	if next.retry.IsZero() {
		return now, nil
	}
	return next.retry, nil
}

// keep writes where a hook is.
func (h *Hooks) keep(ctx context.Context, l db.Lease, k Hook, at state, r *Request) error {
	err := h.db.Write(ctx, func(tx *db.Tx) error {
		if err := tx.Check(l); err != nil {
			return err
		}
		if r != nil {
			if err := saveRequest(tx, k.Number, *r); err != nil {
				return err
			}
		}
		return saveState(tx, k, at)
	})
	if err != nil {
		return fmt.Errorf("webhook %d: %w", k.Number, err)
	}
	if r != nil {
		crash.At("event: a request to a webhook is kept")
	}
	return nil
}

// send makes one request. Only an answer of 200 to 299 counts.
func (h *Hooks) send(ctx context.Context, k Hook, d delivery, key, body []byte) Request {
	r := Request{Sent: time.Now(), Body: string(body)}
	status, err := h.post(ctx, k, d, key, body)
	r.Status = status
	switch {
	case err != nil:
		r.Error = problem(err)
	case status < 200 || status > 299:
		r.Error = fmt.Sprintf("answered %d %s", status, http.StatusText(status))
	}
	return r
}

// problem says why there was no answer, without the address, which is known.
func problem(err error) string {
	text := err.Error()
	if _, rest, ok := strings.Cut(text, `": `); ok && strings.HasPrefix(text, `Post "`) {
		text = rest
	}
	return text[:min(len(text), 1000)]
}

func (h *Hooks) post(ctx context.Context, k Hook, d delivery, key, body []byte) (status int, err error) {
	if len(key) > 0 {
		if body, err = withKey(body, key); err != nil {
			return 0, err
		}
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, k.URL, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	q.Header.Set("Content-Type", "application/json")
	q.Header.Set("User-Agent", "Slipway")
	q.Header.Set(headerEvent, string(d.word))
	q.Header.Set(headerDelivery, fmt.Sprintf("%d-%d-%s", k.Number, d.event.Seq, d.word))
	if len(key) > 0 {
		q.Header.Set(headerSignature, "sha256="+Signature(key, body))
	}
	c := h.direct
	if via, err := http.ProxyFromEnvironment(q); err == nil && via != nil {
		if ip, err := netip.ParseAddr(q.URL.Hostname()); err == nil && !h.cfg.Private && reach.Inside(ip) {
			return 0, fmt.Errorf("%s is a private address, which this server does not allow", ip)
		}
		c = h.proxy
	}
	res, err := c.Do(q)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, answerSize) // what it says is of no interest
	return res.StatusCode, nil
}

// Signature is the HMAC-SHA256 of a body by a key, in hex.
func Signature(key, body []byte) string {
	m := hmac.New(sha256.New, key)
	m.Write(body)
	return hex.EncodeToString(m.Sum(nil))
}

// withKey adds the key to a payload, where receivers of this API look for it.
func withKey(body, key []byte) ([]byte, error) {
	text, err := json.Marshal(string(key))
	end := bytes.LastIndexByte(body, '}')
	if err != nil || end <= 0 {
		return nil, errors.New("the payload is no object")
	}
	return slices.Concat(body[:end], []byte(`,"secret_key":`), text, []byte("}")), nil
}
