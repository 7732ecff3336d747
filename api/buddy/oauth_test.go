package buddy

import (
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"slipway/access"
)

const callback = "https://ci.example/back?kept=1"

// application is one that is registered, and a browser of a user of its.
type application struct {
	*world
	conf   *oauth2.Config
	client *http.Client // follows nobody
	url    string
}

func newApplication(t *testing.T) *application {
	t.Helper()
	w := newWorld(t)
	p, secret, err := w.rooms.Access.CreateApp(t.Context(), w.admin, access.App{Name: "CI & more", Redirects: []string{callback, "http://localhost:8085/"}})
	w.must(err)
	s := httptest.NewServer(w.h)
	t.Cleanup(s.Close)
	return &application{
		w, &oauth2.Config{
			ClientID: p.ID, ClientSecret: secret, RedirectURL: callback, Scopes: []string{"WORKSPACE", "EXECUTION_RUN"},
			Endpoint: oauth2.Endpoint{AuthURL: s.URL + "/oauth2/authorize", TokenURL: s.URL + "/api/oauth2/token"},
		},
		&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Transport: s.Client().Transport},
		s.URL,
	}
}

var hidden = regexp.MustCompile(`name="([^"]+)" value="([^"]*)"`)

// decide sends the form of a page as a browser does, and gives the answer.
func (a *application) decide(page, token, decision string, header ...string) (*http.Response, string) {
	a.t.Helper()
	form := url.Values{"token": {token}}
	for _, m := range hidden.FindAllStringSubmatch(page, -1) {
		form.Set(html.UnescapeString(m[1]), html.UnescapeString(m[2]))
	}
	form.Set("decision", decision)
	q, err := http.NewRequestWithContext(a.t.Context(), "POST", a.url+"/oauth2/authorize", strings.NewReader(form.Encode()))
	a.must(err)
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
	}
	return a.do(q)
}

func (a *application) do(q *http.Request) (*http.Response, string) {
	a.t.Helper()
	res, err := a.client.Do(q)
	a.must(err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	a.must(err)
	return res, string(b)
}

// visit opens an address.
func (a *application) visit(at string) (*http.Response, string) {
	a.t.Helper()
	q, err := http.NewRequestWithContext(a.t.Context(), "GET", at, nil)
	a.must(err)
	return a.do(q)
}

// back is what a redirect brings to the application.
func (a *application) back(res *http.Response) url.Values {
	a.t.Helper()
	at := res.Header.Get("Location")
	if res.StatusCode != http.StatusSeeOther || !strings.HasPrefix(at, "https://ci.example/back?") {
		a.t.Fatalf("%d to %q", res.StatusCode, at)
	}
	u, err := url.Parse(at)
	a.must(err)
	if u.Query().Get("kept") != "1" {
		a.t.Errorf("%s has lost what it had", at)
	}
	return u.Query()
}

// TestOAuth lets a standard client get a token, use it, and get the next ones.
func TestOAuth(t *testing.T) {
	t.Parallel()
	a := newApplication(t)
	verifier := oauth2.GenerateVerifier()
	asks := a.conf.AuthCodeURL("state & such", oauth2.S256ChallengeOption(verifier), oauth2.SetAuthURLParam("type", "web_server"))
	res, page := a.visit(asks)
	for name, want := range map[string]string{
		"Content-Security-Policy": "frame-ancestors 'none'", "X-Frame-Options": "DENY", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "Content-Type": "text/html",
	} {
		if !strings.Contains(res.Header.Get(name), want) {
			t.Errorf("%s: %q", name, res.Header.Get(name))
		}
	}
	if res.StatusCode != 200 || !strings.Contains(page, "CI &amp; more") || !strings.Contains(page, "<li>EXECUTION_RUN</li>") || strings.Contains(page, `role="alert"`) {
		t.Errorf("%d %s", res.StatusCode, page)
	}
	if res, page := a.decide(page, "slw_wrong", "allow"); res.StatusCode != 403 || !strings.Contains(page, `role="alert"`) || strings.Contains(page, "slw_wrong") {
		t.Errorf("a wrong token: %d %s", res.StatusCode, page)
	}
	res, _ = a.decide(page, a.token, "allow")
	got := a.back(res)
	if got.Get("state") != "state & such" || got.Get("code") == "" {
		t.Fatalf("%v", got)
	}
	if _, err := a.conf.Exchange(t.Context(), got.Get("code")); err == nil {
		t.Error("a token without the verifier")
	}
	res, _ = a.decide(page, a.token, "allow")
	code := a.back(res).Get("code")
	tok, err := a.conf.Exchange(t.Context(), code, oauth2.VerifierOption(verifier))
	a.must(err)
	if tok.Type() != "Bearer" || tok.RefreshToken == "" || tok.ExpiresIn != 8*60*60 || tok.Extra("scope") != "WORKSPACE EXECUTION_RUN" {
		t.Errorf("%+v %v", tok, tok.Extra("scope"))
	}
	may := func(token string, status int) {
		t.Helper()
		w := *a.world
		w.token = token
		if rec := w.ask("GET", "/workspaces/acme", ""); rec.Code != status {
			t.Errorf("%d %s, want %d", rec.Code, rec.Body, status)
		}
	}
	may(tok.AccessToken, 200)
	w := *a.world
	w.token = tok.AccessToken
	w.get(403, "DELETE", "/workspaces/acme", "")
	w.get(403, "POST", "/user/tokens", `{"name":"more"}`)

	// The refresh token is good until the next one was used; the answer may be lost.
	refresh := func(token string) (*oauth2.Token, error) {
		return a.conf.TokenSource(t.Context(), &oauth2.Token{RefreshToken: token}).Token()
	}
	second, err := refresh(tok.RefreshToken)
	a.must(err)
	again, err := refresh(tok.RefreshToken)
	a.must(err)
	may(second.AccessToken, 200)
	may(again.AccessToken, 200)
	third, err := refresh(again.RefreshToken)
	a.must(err)
	for _, old := range []string{tok.RefreshToken, second.RefreshToken, "slr_none", third.AccessToken} {
		if _, err := refresh(old); err == nil || !strings.Contains(err.Error(), "invalid_grant") {
			t.Errorf("an old refresh token: %v", err)
		}
	}
	may(third.AccessToken, 200)

	// A code that comes twice was stolen: all that came of it ends.
	if _, err := a.conf.Exchange(t.Context(), code, oauth2.VerifierOption(verifier)); err == nil || !strings.Contains(err.Error(), "invalid_grant") {
		t.Errorf("a code used twice: %v", err)
	}
	may(third.AccessToken, 401)
	if _, err := refresh(third.RefreshToken); err == nil {
		t.Error("a refresh token outlives its grant")
	}
}

// What is wrong sends nobody anywhere but to an address of the application.
func TestOAuthRefuses(t *testing.T) {
	t.Parallel()
	a := newApplication(t)
	base := url.Values{"client_id": {a.conf.ClientID}, "redirect_uri": {callback}, "response_type": {"code"}, "scope": {"WORKSPACE"}, "state": {"s"}}
	with := func(name, value string) string {
		v := url.Values{}
		for k, l := range base {
			v[k] = l
		}
		v.Set(name, value)
		return a.conf.Endpoint.AuthURL + "?" + v.Encode()
	}
	for _, bad := range [][2]string{
		{"client_id", "none"},
		{"client_id", ""},
		{"redirect_uri", "https://evil.example/"},
		{"redirect_uri", "https://ci.example/back"},
		{"redirect_uri", ""},
		{"redirect_uri", callback + "&more=1"},
		{"redirect_uri", "//evil.example"},
		{"redirect_uri", "http://localhost:8086/"},
	} {
		if res, page := a.visit(with(bad[0], bad[1])); res.StatusCode != 404 || res.Header.Get("Location") != "" || !strings.Contains(page, `role="alert"`) || strings.Contains(page, "<form") {
			t.Errorf("%v: %d %s %s", bad, res.StatusCode, res.Header.Get("Location"), page)
		}
	}
	for _, bad := range [][3]string{
		{"response_type", "token", "unsupported_response_type"}, {"scope", "WORKSPACE ROOT", "invalid_scope"}, {"code_challenge", "short", "invalid_request"}, {"code_challenge_method", "plain", "invalid_request"},
	} {
		res, _ := a.visit(with(bad[0], bad[1]))
		if v := a.back(res); v.Get("error") != bad[2] || v.Get("state") != "s" || v.Get("code") != "" {
			t.Errorf("%v: %v", bad, v)
		}
	}
	_, page := a.visit(with("scope", "WORKSPACE,EXECUTION_INFO"))
	res, _ := a.decide(page, "", "refuse")
	if v := a.back(res); v.Get("error") != "access_denied" {
		t.Errorf("%v", v)
	}
	if res, _ := a.decide(page, a.token, "allow", "Sec-Fetch-Site", "cross-site"); res.StatusCode != 403 || res.Header.Get("Location") != "" {
		t.Errorf("from another site: %d", res.StatusCode)
	}
	// Who asks by something that a browser adds of itself is nobody.
	if res, _ := a.decide(page, "", "allow", "Authorization", "Bearer "+a.token); res.StatusCode != 403 {
		t.Errorf("without a token in the form: %d", res.StatusCode)
	}
	// Nobody gives more than it has.
	_, weak, err := a.rooms.Access.CreateToken(t.Context(), a.admin, access.NewToken{Name: "weak", Scopes: []access.Scope{access.TokenManage, access.Workspace}})
	a.must(err)
	if res, page := a.decide(page, weak, "allow"); res.StatusCode != 403 || !strings.Contains(page, "EXECUTION_INFO") {
		t.Errorf("more than it has: %d %s", res.StatusCode, page)
	}

	res, _ = a.decide(page, a.token, "allow")
	code := a.back(res).Get("code")
	post := func(user, secret string, form url.Values) (int, string) {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), "POST", a.conf.Endpoint.TokenURL, strings.NewReader(form.Encode()))
		a.must(err)
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if user != "" {
			q.SetBasicAuth(user, secret)
		}
		res, said := a.do(q)
		if res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%v", res.Header)
		}
		return res.StatusCode, said
	}
	other, otherSecret, err := a.rooms.Access.CreateApp(t.Context(), a.admin, access.App{Name: "other", Redirects: []string{callback}})
	a.must(err)
	grant := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {callback}}
	for _, c := range []struct {
		user, secret string
		form         url.Values
		status       int
		says         string
	}{
		{"", "", grant, 401, "invalid_client"},
		{a.conf.ClientID, "sls_wrong", grant, 401, "invalid_client"},
		{"none", a.conf.ClientSecret, grant, 401, "invalid_client"},
		{other.ID, otherSecret, grant, 400, "invalid_grant"},
		{a.conf.ClientID, a.conf.ClientSecret, url.Values{"grant_type": {"password"}}, 400, "unsupported_grant_type"},
		{a.conf.ClientID, a.conf.ClientSecret, url.Values{"grant_type": {"authorization_code"}, "code": {"slc_none"}, "redirect_uri": {callback}}, 400, "invalid_grant"},
		{a.conf.ClientID, a.conf.ClientSecret, grant, 200, "access_token"},
	} {
		if status, said := post(c.user, c.secret, c.form); status != c.status || !strings.Contains(said, c.says) {
			t.Errorf("%q %v: %d %s", c.user, c.form, status, said)
		}
	}
	// Another address than that of the code ends it.
	res, _ = a.decide(page, a.token, "allow")
	grant.Set("code", a.back(res).Get("code"))
	grant.Set("redirect_uri", "http://localhost:8085/")
	for _, at := range []string{"http://localhost:8085/", callback} {
		grant.Set("redirect_uri", at)
		if status, said := post(a.conf.ClientID, a.conf.ClientSecret, grant); status != 400 {
			t.Errorf("%s: %d %s", at, status, said)
		}
	}
	for path, want := range map[string]int{"/oauth2/token": 401, "/oauth2/none": 401, "/api/oauth2": 401, "/oauth2//token": 401} {
		if res, _ := a.visit(a.url + path); res.StatusCode != want {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
}

// What users and those who manage the server end is over at once.
func TestOAuthEnds(t *testing.T) {
	t.Parallel()
	a := newApplication(t)
	code := func(token string) string {
		t.Helper()
		_, page := a.visit(a.conf.AuthCodeURL("s"))
		res, _ := a.decide(page, token, "allow")
		return a.back(res).Get("code")
	}
	give := func(token string) *oauth2.Token {
		t.Helper()
		tok, err := a.conf.Exchange(t.Context(), code(token))
		a.must(err)
		return tok
	}
	ended := func(tok *oauth2.Token) {
		t.Helper()
		w := *a.world
		w.token = tok.AccessToken
		if rec := w.ask("GET", "/workspaces/acme", ""); rec.Code != 401 {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
		if _, err := a.conf.TokenSource(t.Context(), &oauth2.Token{RefreshToken: tok.RefreshToken}).Token(); err == nil {
			t.Error("it can be refreshed")
		}
	}
	one := give(a.token)
	id := ""
	for _, e := range a.get(200, "GET", "/user/tokens", "")["access_tokens"].([]any) {
		if m := e.(map[string]any); m["name"] == "CI & more" {
			id = m["id"].(string)
		}
	}
	a.get(204, "DELETE", "/user/tokens/"+id, "")
	ended(one)
	// So does what was given with a token that ends.
	giver, token, err := a.rooms.Access.CreateToken(t.Context(), a.admin, access.NewToken{Name: "giver", Scopes: access.Scopes()})
	a.must(err)
	one = give(token)
	open := code(token)
	a.must(a.rooms.Access.DeleteToken(t.Context(), a.admin, giver.ID))
	ended(one)
	if _, err := a.conf.Exchange(t.Context(), open); err == nil {
		t.Error("a code of a token that has ended is good")
	}
	two := give(a.token)
	a.must(a.rooms.Access.DeleteApp(t.Context(), a.admin, a.conf.ClientID))
	ended(two)
}
