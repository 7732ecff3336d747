package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Client speaks to a server by its HTTP API and nothing else.
type Client struct {
	URL   string // without a slash at the end
	Token string
	Key   string // says that what is asked for again is the same; "" says nothing
	HTTP  *http.Client
}

// NewClient makes a client.
func NewClient(u, token string) *Client {
	return &Client{URL: strings.TrimSuffix(u, "/"), Token: token, HTTP: &http.Client{Timeout: 60 * time.Second}}
}

// Refused is an answer that is no success.
type Refused struct {
	Method, Path string
	Status       int
	Message      string
}

func (r *Refused) Error() string {
	return fmt.Sprintf("%s %s: %d %s", r.Method, r.Path, r.Status, r.Message)
}

// IsStatus tells whether err is an answer of that status.
func IsStatus(err error, status int) bool {
	var r *Refused
	return errors.As(err, &r) && r.Status == status
}

// Do sends body as JSON, or as it is if it is an io.Reader, and reads the
// answer into out, which may be nil, a *string or an io.Writer for text, or a
// pointer for JSON.
func (c *Client) Do(ctx context.Context, method, path string, body, out any) error {
	_, err := c.do(ctx, method, path, body, out)
	return err
}

func (c *Client) do(ctx context.Context, method, path string, body, out any) (http.Header, error) {
	var in io.Reader
	contentType := "application/json"
	switch b := body.(type) {
	case nil:
	case io.Reader:
		in, contentType = b, "application/octet-stream"
	default:
		j, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		in = bytes.NewReader(j)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, in)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	if c.Key != "" {
		req.Header.Set("Idempotency-Key", c.Key)
	}
	if in != nil {
		req.Header.Set("Content-Type", contentType)
	}
	client := c.HTTP
	if _, stream := body.(io.Reader); stream { // an upload takes as long as it takes
		client = &http.Client{Transport: c.HTTP.Transport}
	}
	res, err := client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, fmt.Errorf("%s does not answer: %w", c.URL, err)
	}
	defer res.Body.Close()
	if w, ok := out.(io.Writer); ok && res.StatusCode == http.StatusOK {
		_, err := io.Copy(w, res.Body)
		return res.Header, err
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil {
		return nil, err
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return res.Header, &Refused{method, path, res.StatusCode, message(b)}
	}
	switch o := out.(type) {
	case nil:
		return res.Header, nil
	case *string:
		*o = string(b)
		return res.Header, nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return res.Header, fmt.Errorf("%s %s: the answer is no JSON: %w", method, path, err)
	}
	return res.Header, nil
}

// message finds the text of an error in the shapes of the dialects.
func message(b []byte) string {
	var e struct {
		Message, Detail  string
		ValidationErrors []struct{ Path, Message string }
		Errors           []struct{ Message string }
	}
	if json.Unmarshal(b, &e) != nil {
		return strings.TrimSpace(string(b[:min(len(b), 300)]))
	}
	var parts []string
	for _, v := range e.ValidationErrors {
		parts = append(parts, v.Path+": "+v.Message)
	}
	for _, v := range e.Errors {
		parts = append(parts, v.Message)
	}
	for _, s := range []string{e.Message, e.Detail} {
		if s != "" && len(parts) == 0 {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, "; ")
}

// login is the one file that a client keeps.
type login struct {
	URL   string `json:"url"`
	Token string `json:"token"`
}

func loginFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "slipway", "login.json"), nil
}

// Find makes the client of what the flags, the environment, the login file or
// a data directory say, in this order.
func Find(u, token, dataDir string) (*Client, error) {
	if u == "" {
		u = os.Getenv("SLIPWAY_URL")
	}
	if token == "" {
		token = os.Getenv("SLIPWAY_TOKEN")
	}
	if u == "" || token == "" {
		if f, err := loginFile(); err == nil {
			var l login
			if b, err := os.ReadFile(f); err == nil && json.Unmarshal(b, &l) == nil {
				if u == "" {
					u = l.URL
				}
				if token == "" && u == l.URL {
					token = l.Token
				}
			}
		}
	}
	if token == "" && dataDir != "" {
		if b, err := os.ReadFile(filepath.Join(dataDir, "admin-token")); err == nil {
			token = strings.TrimSpace(string(b))
		}
	}
	if u == "" {
		u = "http://127.0.0.1:8080"
	}
	if p, err := url.Parse(u); err != nil || p.Host == "" {
		return nil, fmt.Errorf("--url %q is no http(s)://host[:port]", u)
	}
	if token == "" {
		return nil, errors.New("no token: give --token or set SLIPWAY_TOKEN; the owner's is in the file admin-token of the data directory")
	}
	return NewClient(u, token), nil
}
