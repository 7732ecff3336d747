package ingress

import (
	"encoding/json"
	"html/template"
	"net/http"
	"strconv"
	"strings"
)

// page is an answer of the ingress itself.
type page struct {
	Status  int    `json:"status"`
	Title   string `json:"title"`
	Message string `json:"message"` // what is the case
	Advice  string `json:"advice"`  // what to do
	Host    string `json:"host,omitempty"`
	Path    string `json:"path,omitempty"`
	Service string `json:"service,omitempty"`
}

const pageText = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{.Title}}</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:12vh auto;padding:0 1em;color:#222}
h1{font-size:1.4em}dt{float:left;width:5em;color:#666}dd{margin:0 0 .2em 5em;overflow-wrap:anywhere}</style></head>
<body><h1>{{.Title}}</h1>
<p>{{.Message}}</p>
{{with .Advice}}<p>{{.}}</p>
{{end}}<dl>{{with .Host}}<dt>host</dt><dd>{{.}}</dd>{{end}}{{with .Path}}<dt>path</dt><dd>{{.}}</dd>{{end}}{{with .Service}}<dt>service</dt><dd>{{.}}</dd>{{end}}</dl>
</body></html>
`

func pageTemplate() *template.Template { return template.Must(template.New("page").Parse(pageText)) }

// write answers with a page: JSON for who asks for JSON, else HTML.
func (p *proxy) write(w http.ResponseWriter, r *http.Request, pg page) {
	pg.Host, pg.Path, pg.Service = short(pg.Host, 260), short(pg.Path, 300), short(pg.Service, 100)
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if pg.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "5")
	}
	var body []byte
	if wantsJSON(r.Header.Values("Accept")) {
		h.Set("Content-Type", "application/json")
		body, _ = json.Marshal(map[string]any{"errors": []page{pg}})
		body = append(body, '\n')
	} else {
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		var b strings.Builder
		_ = p.pages.Execute(&b, pg)
		body = []byte(b.String())
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(pg.Status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

// wantsJSON tells whether JSON is named, and HTML not before it.
func wantsJSON(accept []string) bool {
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		media, _, _ := strings.Cut(part, ";")
		media = strings.ToLower(strings.TrimSpace(media))
		switch {
		case media == "text/html" || media == "application/xhtml+xml":
			return false
		case media == "application/json" || strings.HasSuffix(media, "+json"):
			return true
		}
	}
	return false
}

func unknownHost(host string) page {
	return page{
		Status: http.StatusNotFound, Title: "Unknown host", Host: host,
		Message: "No ingress of this server has this hostname.",
		Advice:  "Check the name, or create an ingress for it.",
	}
}

func unknownPath(host, path string) page {
	return page{
		Status: http.StatusNotFound, Title: "No such path", Host: host, Path: path,
		Message: "The ingress of this hostname leads this path nowhere.",
		Advice:  "Add the path, or the path /, to the ingress.",
	}
}

func notRunning(host string, r Route) page {
	return page{
		Status: http.StatusServiceUnavailable, Title: "Service not available", Host: host, Path: r.Path, Service: r.label(),
		Message: "This path leads to a service that cannot take requests now: " + r.Why + ".",
		Advice:  "Start the service, or wait until it runs, and try again.",
	}
}

func defaultPage(host string) page {
	return page{
		Status: http.StatusOK, Title: host, Host: host,
		Message: "Nothing is hosted at this path yet.",
		Advice:  "Lead a path of this ingress to a service to see it here.",
	}
}

// label names the service of a route for people.
func (r Route) label() string {
	if r.Name != "" {
		return r.Name
	}
	return r.Service
}
