package ingress

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/project"
)

const (
	webID = "11111111-1111-4111-8111-111111111111"
	apiID = "22222222-2222-4222-8222-222222222222"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestBuild(t *testing.T) {
	t.Parallel()
	at := time.Unix(1000, 0)
	all := []Ingress{
		{ID: "1", Project: "p", Hostname: "a.example", Enabled: true, Created: at, Paths: []Path{
			{Path: "/", Service: webID, Port: "80/tcp"},
			{Path: "/api/", Service: apiID, Port: "9000/tcp"},
			{Path: "/api/v2", URL: "https://b.example/"},
			{Path: "/page", DefaultPage: true},
			{Path: "/wrong", Service: webID, Port: "81/tcp"},
		}},
		{ID: "2", Project: "p", Hostname: "off.example", Created: at, Paths: []Path{{Path: "/", Service: webID, Port: "80/tcp"}}},
		{ID: "3", Project: "q", Hostname: "q.example", Enabled: true, Created: at, Paths: []Path{{Path: "/", Service: webID, Port: "80/tcp"}}},
		{ID: "4", Project: "q", Hostname: "a.example", Enabled: true, Created: at.Add(time.Second), Paths: []Path{{Path: "/", DefaultPage: true}}},
		{ID: "5", Project: "p", Hostname: "bare.example", Enabled: true, Created: at, Paths: []Path{{Path: "/", Service: "bare", Port: "7/tcp"}}},
	}
	endpoints := map[project.ID][]Endpoint{"p": {
		{Service: webID, Name: "web", Addr: addr("10.0.0.3"), Ports: []Port{{Public: 80, Target: 8080, Protocol: "tcp"}, {Public: 53, Target: 53, Protocol: "udp"}}},
		{Service: webID, Name: "web", Addr: addr("10.0.0.2"), Ports: []Port{{Public: 80, Target: 8080, Protocol: "tcp"}}},
		{Service: "bare", Name: "bare", Addr: addr("10.0.0.9")},
	}}
	networks := []Network{{Name: "p", Gateway: addr("10.0.0.1"), Prefix: netip.MustParsePrefix("10.0.0.0/24")}, {Name: "", Gateway: addr("10.0.1.1")}}
	names := map[string]map[string][]netip.Addr{"p": {"Web": {addr("10.0.0.3"), addr("10.0.0.2")}}}
	got := Build(7, all, endpoints, networks, names)
	web := []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:8080"), netip.MustParseAddrPort("10.0.0.3:8080")}
	want := Table{
		Version: 7,
		Hosts: map[string]Host{
			"a.example": {Project: "p", Routes: []Route{
				{Path: "/api/v2", Redirect: "https://b.example/"},
				{Path: "/wrong", Service: webID, Name: "web", Why: "the service web has no port 81/tcp, it offers 53/udp, 8080/tcp"},
				{Path: "/page", Page: true},
				{Path: "/api", Service: apiID, Why: "the service is not running"},
				{Path: "/", Service: webID, Name: "web", Backends: web},
			}},
			"off.example":  {Project: "p", Routes: []Route{{Path: "/", Why: "this ingress is switched off"}}},
			"q.example":    {Project: "q", Routes: []Route{{Path: "/", Service: webID, Why: "the service is not running"}}},
			"bare.example": {Project: "p", Routes: []Route{{Path: "/", Service: "bare", Name: "bare", Backends: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.9:7")}}}},
		},
		Zones: []Zone{
			{Network: "", Listen: addr("10.0.1.1"), Names: map[string][]netip.Addr{}},
			{Network: "p", Listen: addr("10.0.0.1"), Prefix: netip.MustParsePrefix("10.0.0.0/24"), Names: map[string][]netip.Addr{"web": {addr("10.0.0.2"), addr("10.0.0.3")}}},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for range 20 { // in whatever order
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		l := endpoints["p"]
		rand.Shuffle(len(l), func(i, j int) { l[i], l[j] = l[j], l[i] })
		slices.Reverse(networks)
		if again := Build(7, all, endpoints, networks, names); !reflect.DeepEqual(again, want) {
			t.Fatalf("another order gives %+v", again)
		}
	}
	// a verified one wins, however young
	all = append(all, Ingress{ID: "6", Project: "r", Hostname: "a.example", Enabled: true, Verified: true, Created: at.Add(time.Hour)})
	if h := Build(1, all, endpoints, nil, nil).Hosts["a.example"]; h.Project != "r" {
		t.Errorf("the host is that of %s", h.Project)
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	h := Host{Routes: []Route{{Path: "/api/v2"}, {Path: "/api"}, {Path: "/"}}}
	for path, want := range map[string]string{"/": "/", "/api": "/api", "/api/": "/api", "/apis": "/", "/api/v2": "/api/v2", "/api/v2/x": "/api/v2", "/api/v22": "/api", "/x/api": "/", "": ""} {
		r, ok := h.Match(path)
		if r.Path != want || ok != (want != "") {
			t.Errorf("%q: %q %v, want %q", path, r.Path, ok, want)
		}
	}
	if _, ok := (Host{Routes: []Route{{Path: "/only"}}}).Match("/other"); ok {
		t.Error("a path that leads nowhere")
	}
	tab := table(1, map[string][]Route{"a.example": nil})
	for host, want := range map[string]bool{"a.example": true, "A.Example:8080": true, "a.example.": true, "b.example": false, "": false, "[::1]:80": false} {
		if _, _, ok := tab.Find(host); ok != want {
			t.Errorf("%s: %v", host, ok)
		}
	}
}

func TestHostnames(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"Example.COM": "example.com", "example.com.": "example.com", "bücher.example": "xn--bcher-kva.example", "xn--bcher-kva.example": "xn--bcher-kva.example",
		"hello.localhost": "hello.localhost", "localhost": "localhost", "a-b.c1.example": "a-b.c1.example",
		"": "", "a b": "", "-a.example": "", "a..b": "", "a_b.example": "", "*.example.com": "", "10.0.0.1": "", "::1": "", "[::1]": "", "1.2.3": "", "0x7f": "",
		"http://a.example": "", "a.example:80": "", "a.example/x": "", strings.Repeat("a", 64) + ".example": "", strings.Repeat("abcdefg.", 40) + "example": "", "xn--zzzz99": "", "\xff": "",
	} {
		got, err := Hostname(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
		if inv, ok := project.AsInvalid(err); err != nil && (!ok || inv.Fields[0].Path != "hostname") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func FuzzHostname(f *testing.F) {
	for _, s := range []string{"a.example", "bücher.example", "xn--bcher-kva.example", "1.2.3.4", "a..b", "ẞ.de"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := Hostname(s)
		if err != nil {
			return
		}
		if again, err := Hostname(h); err != nil || again != h {
			t.Errorf("%q became %q and then %q, %v", s, h, again, err)
		}
		if hostOnly(h) != h || len(h) > 253 {
			t.Errorf("%q became %q, which no request finds", s, h)
		}
	})
}

func TestValidatePaths(t *testing.T) {
	t.Parallel()
	err := ValidatePaths([]Path{
		{Path: "/", Service: webID, Port: "80/tcp"}, {Path: "/a/", URL: "https://x.example/y?z"}, {Path: "/ü b", DefaultPage: true},
	})
	if err != nil {
		t.Error(err)
	}
	for want, p := range map[string][]Path{
		"paths required":                             nil,
		"paths maximum":                              make([]Path, 101),
		"paths.1.path conflict":                      {{Path: "/a", DefaultPage: true}, {Path: "/a/", DefaultPage: true}},
		"paths.0.path required":                      {{DefaultPage: true}},
		"paths.0.path format":                        {{Path: "a", DefaultPage: true}},
		"paths.0.path format ":                       {{Path: "/a//b", DefaultPage: true}},
		"paths.0.path format  ":                      {{Path: "/a/../b", DefaultPage: true}},
		"paths.0.path format   ":                     {{Path: "/a?b", DefaultPage: true}},
		"paths.0.path format    ":                    {{Path: "/a\nb", DefaultPage: true}},
		"paths.0.path maximum":                       {{Path: "/" + strings.Repeat("a", 2000), DefaultPage: true}},
		"paths.0.target required":                    {{Path: "/"}},
		"paths.0.target required ":                   {{Path: "/", DefaultPage: true, URL: "http://x.example"}},
		"paths.0.service format":                     {{Path: "/", Service: "c-abcdef", Port: "80/tcp"}},
		"paths.0.port format":                        {{Path: "/", Service: webID, Port: "80"}},
		"paths.0.port format ":                       {{Path: "/", Service: webID, Port: "53/udp"}},
		"paths.0.port format  ":                      {{Path: "/", Service: webID, Port: "0/tcp"}},
		"paths.0.service format,paths.0.port format": {{Path: "/", Service: "x", Port: "y"}},
		"paths.0.url format":                         {{Path: "/", URL: "ftp://x"}},
		"paths.0.url format ":                        {{Path: "/", URL: "https://u:p@x.example"}},
		"paths.0.url format  ":                       {{Path: "/", URL: "/relative"}},
		"paths.0.path required,paths.0.target required,paths.1.url format": {{}, {Path: "/", URL: "x"}},
	} {
		inv, ok := project.AsInvalid(ValidatePaths(p))
		if !ok {
			t.Errorf("%s: no error", want)
			continue
		}
		var got []string
		for _, f := range inv.Fields {
			got = append(got, f.Path+" "+f.Kind)
		}
		if strings.Join(got, ",") != strings.TrimSpace(want) {
			t.Errorf("got %v, want %s", got, want)
		}
	}
}
