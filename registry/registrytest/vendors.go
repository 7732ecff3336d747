// Package registrytest has servers that speak for vendors: they check what is
// signed as the vendors do, and give tokens for it.
package registrytest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Amazon speaks for ECR and STS. It lets in who signs with a key that it knows,
// for a region and the right service.
type Amazon struct {
	*httptest.Server
	mu     sync.Mutex
	keys   map[string]aws.Credentials
	asked  []string // "service who"
	busy   int      // so many answers are to come later
	lasts  time.Duration
	home   string // the registry of the account
	tokens int
	ended  int // tokens up to that one are over
	trust  Trust
}

// NewAmazon starts one with the key AKIDBASE, whose secret is base-secret.
func NewAmazon(t *testing.T) *Amazon {
	t.Helper()
	a := &Amazon{home: "123456789012.dkr.ecr.eu-west-1.amazonaws.com", keys: map[string]aws.Credentials{"AKIDBASE": {AccessKeyID: "AKIDBASE", SecretAccessKey: "base-secret"}}, lasts: 12 * time.Hour}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

// Times is how often it was asked.
func (a *Amazon) Times() int { return len(a.Asked()) }

// Asked are the questions: the service, and the key that signed.
func (a *Amazon) Asked() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.asked)
}

// Be has so many answers be "later", and tokens last so long.
func (a *Amazon) Be(busy int, lasts time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.busy, a.lasts = busy, lasts
}

// Home has the registry of the account be at a host.
func (a *Amazon) Home(host string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.home = host
}

// End ends the tokens that were given so far.
func (a *Amazon) End() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = a.tokens
}

// Good tells whether a login is a token that is not over.
func (a *Amazon) Good(user, password string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	number, _, _ := strings.Cut(strings.TrimPrefix(password, "token-"), "-")
	n, err := strconv.Atoi(number)
	return user == "AWS" && err == nil && n > a.ended && n <= a.tokens
}

// ServeHTTP implements http.Handler.
func (a *Amazon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	service := "ecr"
	if r.Header.Get("X-Amz-Target") == "" {
		service = "sts"
	}
	form, _ := url.ParseQuery(string(body))
	web := service == "sts" && form.Get("Action") == "AssumeRoleWithWebIdentity"
	who, err := a.signed(r, body, service)
	if web {
		who, err = a.trusts(form.Get("WebIdentityToken"))
	}
	a.asked = append(a.asked, service+" "+who)
	refuse := func(status int, code, message string) {
		w.Header().Set("X-Amzn-ErrorType", code)
		if service == "sts" {
			w.WriteHeader(status)
			fmt.Fprintf(w, `<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error></ErrorResponse>`, code, message)
			return
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"__type":%q,"message":%q}`, code, message)
	}
	switch {
	case a.busy > 0:
		a.busy--
		refuse(http.StatusBadRequest, "ThrottlingException", "Rate exceeded")
	case err != nil:
		refuse(http.StatusForbidden, "SignatureDoesNotMatch", err.Error())
	case service == "sts":
		a.role(w, string(body), refuse)
	default:
		a.tokens++
		token := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "AWS:token-%d-%s", a.tokens, who))
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		fmt.Fprintf(w, `{"authorizationData":[{"authorizationToken":%q,"expiresAt":%d,"proxyEndpoint":"https://%s"}]}`,
			token, time.Now().Add(a.lasts).Unix(), a.home)
	}
}

// signed tells who signed a request, by signing it again.
func (a *Amazon) signed(r *http.Request, body []byte, service string) (who string, err error) {
	var key, region, what, headers string
	for _, part := range strings.Split(strings.TrimPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 "), ", ") {
		if v, ok := strings.CutPrefix(part, "Credential="); ok {
			if f := strings.Split(v, "/"); len(f) == 5 {
				key, region, what = f[0], f[2], f[3]
			}
		}
		if v, ok := strings.CutPrefix(part, "SignedHeaders="); ok {
			headers = v
		}
	}
	keys, ok := a.keys[key]
	at, terr := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	switch {
	case !ok:
		return key, fmt.Errorf("no such key %q", key)
	case what != service || region != "eu-west-1":
		return key, fmt.Errorf("signed for %s in %s", what, region)
	case terr != nil || time.Since(at).Abs() > 5*time.Minute:
		return key, fmt.Errorf("signed at %s", at)
	case keys.SessionToken != "" && !strings.Contains(headers, "x-amz-security-token"):
		return key, fmt.Errorf("the session is not signed: %s", headers)
	}
	again, err := http.NewRequest(r.Method, "http://"+r.Host+r.URL.RequestURI(), strings.NewReader(string(body)))
	if err != nil {
		return key, err
	}
	for _, h := range strings.Split(headers, ";") {
		if v := r.Header.Values(h); len(v) > 0 {
			again.Header[http.CanonicalHeaderKey(h)] = v
		}
	}
	sum := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(r.Context(), keys, again, hex.EncodeToString(sum[:]), service, region, at); err != nil {
		return key, err
	}
	if again.Header.Get("Authorization") != r.Header.Get("Authorization") {
		return key, fmt.Errorf("the signature is another one")
	}
	return key, nil
}

// Trust has it take the word of an issuer.
func (a *Amazon) Trust(t Trust) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trust = t
}

func (a *Amazon) trusts(token string) (string, error) {
	claims, err := a.trust.Check(token)
	return fmt.Sprint(claims["sub"]), err
}

// role gives keys for a role. A role of the name "chained" wants an external id.
func (a *Amazon) role(w http.ResponseWriter, body string, refuse func(int, string, string)) {
	v, err := url.ParseQuery(body)
	arn := v.Get("RoleArn")
	name := arn[strings.LastIndex(arn, "/")+1:]
	action := v.Get("Action")
	if err != nil || !strings.HasPrefix(action, "AssumeRole") || v.Get("RoleSessionName") == "" || name == "forbidden" || name == "chained" && v.Get("ExternalId") != "ours" {
		refuse(http.StatusForbidden, "AccessDenied", "not authorized to perform: sts:AssumeRole")
		return
	}
	k := aws.Credentials{AccessKeyID: "ASIA" + strings.ToUpper(name), SecretAccessKey: "secret-of-" + name, SessionToken: "session-of-" + name}
	a.keys[k.AccessKeyID] = k
	w.Header().Set("Content-Type", "text/xml")
	fmt.Fprintf(w, `<%[1]sResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><%[1]sResult><Credentials><AccessKeyId>%[2]s</AccessKeyId>
		<SecretAccessKey>%[3]s</SecretAccessKey><SessionToken>%[4]s</SessionToken><Expiration>%[5]s</Expiration></Credentials></%[1]sResult></%[1]sResponse>`,
		action, k.AccessKeyID, k.SecretAccessKey, k.SessionToken, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
}

// Google gives tokens for what is signed with the key of its one account.
type Google struct {
	*httptest.Server
	Key    *rsa.PrivateKey
	mu     sync.Mutex
	busy   int // so many answers are 429
	asked  int
	tokens int
	lasts  int // seconds
	trust  Trust
}

// NewGoogle starts one.
func NewGoogle(t *testing.T) *Google {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	g := &Google{Key: key, lasts: 3600}
	g.Server = httptest.NewServer(g)
	t.Cleanup(g.Close)
	return g
}

// Busy has so many answers be "later".
func (g *Google) Busy(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.busy = n
}

// Good tells whether a login is a token that was given.
func (g *Google) Good(user, password string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, err := strconv.Atoi(strings.TrimPrefix(password, "ya29.token-"))
	return user == "oauth2accesstoken" && err == nil && n > 0 && n <= g.tokens
}

// Account is the file of a service account with a key. What it says about where
// tokens are to be had is a trap.
func Account(t *testing.T, key *rsa.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "bot@demo.iam.gserviceaccount.com", "private_key_id": "kid-1", "token_uri": "http://127.0.0.1:1/token",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// ServeHTTP implements http.Handler.
func (g *Google) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked++
	if g.busy > 0 {
		g.busy--
		w.WriteHeader(http.StatusTooManyRequests)
		return
	}
	switch {
	case r.URL.Path == "/v1/token":
		g.federate(w, r)
		return
	case strings.HasSuffix(r.URL.Path, ":generateAccessToken"):
		g.impersonate(w, r)
		return
	}
	if err := g.signed(r); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"error":"invalid_grant","error_description":%q}`, err.Error())
		return
	}
	g.tokens++
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token":"ya29.token-%d","token_type":"Bearer","expires_in":%d}`, g.tokens, g.lasts)
}

// Trust has it take the word of an issuer.
func (g *Google) Trust(t Trust) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.trust = t
}

// Provider is the audience of its one workload identity provider, Robot its service
// account.
const (
	Provider = "//iam.googleapis.com/projects/42/locations/global/workloadIdentityPools/ci/providers/slipway"
	Robot    = "bot@demo.iam.gserviceaccount.com"
)

// federate gives a token for the word of a trusted issuer.
func (g *Google) federate(w http.ResponseWriter, r *http.Request) {
	err := r.ParseForm()
	if err == nil && (r.Form.Get("audience") != Provider || r.Form.Get("grant_type") != "urn:ietf:params:oauth:grant-type:token-exchange" ||
		r.Form.Get("subject_token_type") != "urn:ietf:params:oauth:token-type:jwt") {
		err = fmt.Errorf("the form is %v", r.Form)
	}
	if err == nil {
		_, err = g.trust.Check(r.Form.Get("subject_token"))
	}
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"error":"invalid_grant","error_description":%q}`, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token":"federated","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":%d}`, g.lasts)
}

// impersonate gives a token of the service account for a federated one.
func (g *Google) impersonate(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer federated" || !strings.HasPrefix(r.URL.Path, "/v1/projects/-/serviceAccounts/"+Robot+":") {
		http.Error(w, `{"error":{"code":403,"status":"PERMISSION_DENIED"}}`, http.StatusForbidden)
		return
	}
	g.tokens++
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"accessToken":"ya29.token-%d","expireTime":%q}`, g.tokens, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
}

// signed tells what is wrong with a signed text.
func (g *Google) signed(r *http.Request) error {
	if err := r.ParseForm(); err != nil || r.Form.Get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
		return fmt.Errorf("the form is %v", r.Form)
	}
	parts := strings.Split(r.Form.Get("assertion"), ".")
	if len(parts) != 3 {
		return fmt.Errorf("%d parts", len(parts))
	}
	var raw [3][]byte
	for i, p := range parts {
		var err error
		if raw[i], err = base64.RawURLEncoding.DecodeString(p); err != nil {
			return err
		}
	}
	var head struct{ Alg, Kid string }
	var claims struct {
		Iss, Aud, Scope string
		Iat, Exp        int64
	}
	if err := json.Unmarshal(raw[0], &head); err != nil {
		return err
	}
	if err := json.Unmarshal(raw[1], &claims); err != nil {
		return err
	}
	now := time.Now().Unix()
	if head.Alg != "RS256" || head.Kid != "kid-1" || claims.Iss != "bot@demo.iam.gserviceaccount.com" || claims.Aud != g.URL ||
		claims.Scope != "https://www.googleapis.com/auth/cloud-platform" || claims.Iat > now+60 || claims.Exp < now || claims.Exp > now+3700 {
		return fmt.Errorf("%+v %+v", head, claims)
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	return rsa.VerifyPKCS1v15(&g.Key.PublicKey, crypto.SHA256, sum[:], raw[2])
}
