package buddy

import (
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"slipway/access"
	"slipway/api"
)

// OAuthPrefix is where OAuth is mounted; it is served below /api, too.
const OAuthPrefix = "/oauth2"

// oauth is the flow by which an application gets a token of a user (RFC 6749,
// 4.1 and 6, with PKCE of RFC 7636). Its words are those of that, not of the
// dialect.
type oauth struct {
	access *access.Access
	ip     func(*http.Request) netip.Addr
	cross  *http.CrossOriginProtection
}

// maxForm is how large a form may be, in bytes.
const maxForm = 64 << 10

// OAuth serves the flow. ip tells where a request comes from; other answers what
// is not served here.
func OAuth(a *access.Access, ip func(*http.Request) netip.Addr, other http.Handler) http.Handler {
	o := &oauth{a, ip, http.NewCrossOriginProtection()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+OAuthPrefix+"/authorize", o.ask)
	mux.HandleFunc("POST "+OAuthPrefix+"/authorize", o.decide)
	mux.HandleFunc("POST "+OAuthPrefix+"/token", o.token)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r2 := r.Clone(r.Context())
		r2.URL.Path, r2.URL.RawPath = strings.TrimSuffix(rewrite(r.URL.Path), "/"), ""
		if _, pattern := mux.Handler(r2); pattern == "" || path.Clean(r2.URL.Path) != r2.URL.Path {
			other.ServeHTTP(w, r)
			return
		}
		r2.Body = http.MaxBytesReader(w, r.Body, maxForm)
		before(w, r2)
		w.Header().Set("Cache-Control", "no-store")
		mux.ServeHTTP(w, r2)
	})
}

// question is what the page asks.
type question struct {
	App, Place string
	Scopes     []access.Scope
	Form       map[string]string // given back with the answer
	Alert      string
}

var page = template.Must(template.New("").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Slipway</title></head><body>
{{with .Alert}}<p role="alert">{{.}}</p>
{{end}}{{if .App}}<h1>{{.App}} asks for a token of yours</h1>
<p>It is at {{.Place}}. {{if .Scopes}}With the token it may:{{else}}The token may do nothing but say whose it is.{{end}}</p>
<ul>{{range .Scopes}}<li>{{.}}</li>{{end}}</ul>
<form method="post">
{{range $name, $value := .Form}}<input type="hidden" name="{{$name}}" value="{{$value}}">
{{end}}<p><label>Token <input type="password" name="token" autocomplete="off" autofocus></label></p>
<p><button name="decision" value="allow">Allow</button> <button name="decision" value="refuse">Refuse</button></p>
</form>
{{end}}</body></html>
`))

func (o *oauth) show(w http.ResponseWriter, status int, q question) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	// Browsers hold the redirect after the form to form-action, so that it is left out.
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(status)
	_ = page.Execute(w, q)
}

// asked reads what an application asks. Whoever asks without an application, or
// with a place that is not its own, is told so here: nobody is sent anywhere.
// What else is wrong is for the application: back.
func (o *oauth) asked(w http.ResponseWriter, r *http.Request, form url.Values) (ask access.Ask, q question, ok bool) {
	ask = access.Ask{App: form.Get("client_id"), Redirect: form.Get("redirect_uri"), Challenge: form.Get("code_challenge")}
	app, err := o.access.App(r.Context(), ask.App, ask.Redirect)
	if err != nil {
		if !errdefs.IsNotFound(err) {
			o.broken(r, err)
		}
		o.show(w, api.Status(err), question{Alert: "There is no such application, or redirect_uri is not one of its addresses."})
		return ask, q, false
	}
	for _, s := range strings.FieldsFunc(form.Get("scope"), func(c rune) bool { return c == ' ' || c == ',' }) {
		ask.Scopes = append(ask.Scopes, access.Scope(s))
	}
	state := form.Get("state")
	switch method := form.Get("code_challenge_method"); {
	case form.Get("response_type") != "code":
		back(w, r, ask, state, "unsupported_response_type", "response_type must be code")
		return ask, q, false
	case ask.Challenge == "" && method != "", ask.Challenge != "" && (method != "S256" || len(ask.Challenge) != 43):
		back(w, r, ask, state, "invalid_request", "code_challenge must be of the method S256")
		return ask, q, false
	}
	for _, s := range ask.Scopes {
		if !access.KnownScope(s) {
			back(w, r, ask, state, "invalid_scope", "there is no such scope")
			return ask, q, false
		}
	}
	q = question{App: app.Name, Place: ask.Redirect, Scopes: ask.Scopes, Form: map[string]string{}}
	for _, name := range []string{"client_id", "redirect_uri", "response_type", "scope", "state", "code_challenge", "code_challenge_method"} {
		if v := form.Get(name); v != "" {
			q.Form[name] = v
		}
	}
	return ask, q, true
}

// back sends the user to the application, with what became of it.
func back(w http.ResponseWriter, r *http.Request, ask access.Ask, state, name, value string) {
	u, err := url.Parse(ask.Redirect)
	if err != nil { // it was checked when the application was registered
		http.Error(w, "redirect_uri", http.StatusInternalServerError)
		return
	}
	v := u.Query()
	if name == "code" {
		v.Set("code", value)
	} else {
		v.Set("error", name)
		v.Set("error_description", value)
	}
	if state != "" {
		v.Set("state", state)
	}
	u.RawQuery = v.Encode()
	w.Header().Set("Referrer-Policy", "no-referrer")
	http.Redirect(w, r, u.String(), http.StatusSeeOther)
}

func (o *oauth) ask(w http.ResponseWriter, r *http.Request) {
	if _, q, ok := o.asked(w, r, r.URL.Query()); ok {
		o.show(w, http.StatusOK, q)
	}
}

// decide takes the answer of a user, who says who it is by a token in the form,
// and by nothing that a browser adds of itself.
func (o *oauth) decide(w http.ResponseWriter, r *http.Request) {
	if err := o.cross.Check(r); err != nil {
		o.show(w, http.StatusForbidden, question{Alert: "The form was sent from another site."})
		return
	}
	if err := r.ParseForm(); err != nil {
		o.show(w, http.StatusBadRequest, question{Alert: "The form cannot be read."})
		return
	}
	ask, q, ok := o.asked(w, r, r.PostForm)
	if !ok {
		return
	}
	state := r.PostForm.Get("state")
	if r.PostForm.Get("decision") != "allow" {
		back(w, r, ask, state, "access_denied", "the user refuses")
		return
	}
	by, err := o.access.Authenticate(r.Context(), strings.TrimSpace(r.PostForm.Get("token")), o.ip(r).String())
	var code string
	if err == nil {
		code, err = o.access.Consent(r.Context(), by, ask)
	}
	if err != nil {
		q.Alert = api.Text(err)
		status := api.Status(err)
		switch {
		case status >= 500:
			o.broken(r, err)
			q.Alert = "Internal error; its cause is in the server's log under the request id " + api.ID(r)
		case status == http.StatusUnauthorized: // the page asks itself
			status = http.StatusForbidden
		}
		o.show(w, status, q)
		return
	}
	back(w, r, ask, state, "code", code)
}

// token gives an application a token for a code or a refresh token.
func (o *oauth) token(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		refuse(w, http.StatusBadRequest, "invalid_request", "the body is no form")
		return
	}
	f := r.PostForm
	c := access.Client{ID: f.Get("client_id"), Secret: f.Get("client_secret")}
	if id, secret, ok := r.BasicAuth(); ok {
		c.ID, c.Secret = unescape(id), unescape(secret)
	}
	var g access.Granted
	var err error
	switch f.Get("grant_type") {
	case "authorization_code":
		g, err = o.access.Redeem(r.Context(), c, f.Get("code"), f.Get("redirect_uri"), f.Get("code_verifier"))
	case "refresh_token":
		g, err = o.access.Refresh(r.Context(), c, f.Get("refresh_token"))
	default:
		refuse(w, http.StatusBadRequest, "unsupported_grant_type", "grant_type must be authorization_code or refresh_token")
		return
	}
	switch {
	case errors.Is(err, access.ErrClient):
		w.Header().Set("WWW-Authenticate", `Basic realm="slipway"`)
		refuse(w, http.StatusUnauthorized, "invalid_client", api.Text(err))
	case errors.Is(err, access.ErrGrant):
		refuse(w, http.StatusBadRequest, "invalid_grant", api.Text(err))
	case err != nil:
		o.broken(r, err)
		refuse(w, http.StatusInternalServerError, "server_error", "the cause is in the server's log under the request id "+api.ID(r))
	default:
		_ = api.JSON(w, http.StatusOK, object{
			{"access_token", g.Token},
			{"token_type", "Bearer"},
			{"expires_in", int64(time.Until(g.Expires).Round(time.Second) / time.Second)},
			{"refresh_token", g.Refresh},
			{"scope", strings.ReplaceAll(joined(g.Scopes), ",", "")},
		})
	}
}

// unescape reads what a client puts into Basic: a text as in a form (RFC 6749,
// 2.3.1).
func unescape(s string) string {
	if t, err := url.QueryUnescape(s); err == nil {
		return t
	}
	return s
}

func refuse(w http.ResponseWriter, status int, word, text string) {
	_ = api.JSON(w, status, object{{"error", word}, {"error_description", text}})
}

func (o *oauth) broken(r *http.Request, err error) {
	slog.ErrorContext(r.Context(), "an application asks in vain", "room", "api", "id", api.ID(r), "err", err)
}
