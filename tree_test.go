package main

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// knows says which rooms a room may know. Everybody may know crash. The map of
// docs/ARCHITECTURE.md in a form that a test can hold.
var knows = map[string][]string{
	".":                     {"serve", "ingress", "cli", "doctor", "engine/local"},
	"crash":                 {},
	"plainfile":             {},
	"reach":                 {},
	"clock":                 {},
	"db":                    {},
	"logs/segment":          {},
	"logs":                  {"logs/segment"},
	"engine":                {},
	"engine/local/wire":     {},
	"engine/local":          {"engine", "engine/local/wire", "logs/segment", "plainfile"},
	"engine/fake":           {"engine", "logs/segment"},
	"engine/enginetest":     {"engine", "logs", "logs/segment"},
	"child":                 {"engine/local/wire", "logs/segment"},
	"access":                {"db"},
	"project":               {"access", "event", "db"},
	"event":                 {"access", "reach", "db"},
	"secret":                {"project", "access", "db"},
	"registry":              {"secret", "engine"},
	"registry/registrytest": {},
	"source":                {"project", "secret", "event", "access", "db", "plainfile", "reach"},
	"image":                 {"project", "event", "access", "engine", "db"},
	"ingress":               {"project", "secret", "event", "access", "db"},
	"stack":                 {"clock", "project", "secret", "ingress", "image", "event", "access", "engine", "logs", "logs/segment", "db"},
	"pipeline":              {"project", "secret", "registry", "source", "stack", "image", "event", "access", "clock", "engine", "logs", "logs/segment", "db", "plainfile"},
	"trigger":               {"source", "image", "pipeline", "stack", "project", "event", "access", "db"},
	"api":                   {"access", "project"},
	"api/apitest":           {"engine/fake", "event", "access", "project", "secret", "source", "pipeline", "image", "logs", "db"},
	"api/buddy":             {"api", "engine", "event", "access", "project", "secret", "source", "pipeline", "image", "logs"},
	"api/mittwald":          {"api", "clock", "engine", "access", "project", "secret", "stack", "ingress", "image", "logs"},
	"api/alauda":            {"api", "engine", "access", "project", "secret", "source", "pipeline", "image", "logs"},
	"api/native":            {"api", "engine", "access", "project", "secret", "source", "pipeline", "stack", "ingress", "image", "event", "logs"},
	"cli":                   {"example"},
	"doctor":                {"db", "image", "engine/local"},
	"serve":                 nil, // everything
	"example":               {},
	"example/hello":         {},
	"bench/probe":           {},
	"e2e/probe":             {},
	"bench":                 nil,
	"e2e":                   nil,
}

// heavy are modules that only the rooms named may link: whoever reads another
// room need not know them.
var heavy = map[string][]string{
	"github.com/moby/buildkit":               {"engine/local"},
	"github.com/containerd/containerd/v2":    {"engine/local"},
	"go.etcd.io/bbolt":                       {"engine/local"},
	"github.com/google/nftables":             {"engine/local"},
	"github.com/vishvananda/netlink":         {"engine/local", "doctor"},
	"modernc.org/sqlite":                     {"db"},
	"github.com/pressly/goose/v3":            {"db"},
	"github.com/miekg/dns":                   {"ingress"},
	"github.com/tink-crypto/tink-go/v2":      {"secret"},
	"github.com/aws/aws-sdk-go-v2":           {"registry", "registry/registrytest"},
	"golang.org/x/oauth2":                    {"registry"},
	"cuelabs.dev/go/oci/ociregistry":         {"image"},
	"github.com/spf13/cobra":                 {"cli", "serve", "doctor", "."},
	"github.com/knadh/koanf/v2":              {"serve"},
	"github.com/prometheus/client_golang":    {"serve", "ingress", "api"},
	"github.com/google/go-containerregistry": {},
}

type listed struct {
	ImportPath, Dir       string
	Imports, TestGoFiles  []string
	GoFiles, XTestGoFiles []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p listed
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func room(path string) string {
	if path == "slipway" {
		return "."
	}
	return strings.TrimPrefix(path, "slipway/")
}

// TestRoomsKnowOnlyTheirNeighbours holds the import map.
func TestRoomsKnowOnlyTheirNeighbours(t *testing.T) {
	for _, p := range packages(t) {
		r := room(p.ImportPath)
		allowed, ok := knows[r]
		if !ok {
			t.Errorf("%s is not on the map: add it to knows and to docs/ARCHITECTURE.md", r)
			continue
		}
		for _, i := range p.Imports {
			if i == "slipway" || strings.HasPrefix(i, "slipway/") {
				if to := room(i); allowed != nil && to != "crash" && !slices.Contains(allowed, to) {
					t.Errorf("%s imports %s, which is not among %v", r, to, allowed)
				}
				if room(i) == "serve" && r != "." && r != "e2e" && r != "bench" {
					t.Errorf("%s imports serve; nothing but main does", r)
				}
			}
			for mod, rooms := range heavy {
				if (i == mod || strings.HasPrefix(i, mod+"/")) && !slices.Contains(rooms, r) && r != "bench" && r != "e2e" && r != "engine/enginetest" {
					t.Errorf("%s imports %s; only %v may", r, i, rooms)
				}
			}
		}
	}
}

// TestChildIsSmall holds the monitor to the standard library and x/sys.
func TestChildIsSmall(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "./child").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		if !strings.HasPrefix(p, "slipway/") && !strings.HasPrefix(p, "golang.org/x/sys") {
			t.Errorf("child links %s", p)
		}
	}
}

// TestEveryPackageSaysWhatItIs wants one package comment a package.
func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range packages(t) {
		var with []string
		for _, f := range p.GoFiles {
			a, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			if a.Doc != nil && documented(a.Doc) {
				with = append(with, f)
			}
		}
		if len(p.GoFiles) > 0 && len(with) != 1 {
			t.Errorf("%s has %d package comments %v, want one", p.ImportPath, len(with), with)
		}
	}
}

func documented(d *ast.CommentGroup) bool {
	text := d.Text()
	return strings.HasPrefix(text, "Package ") || strings.HasPrefix(text, "Command ")
}

// TestNoReplace keeps go.mod honest.
func TestNoReplace(t *testing.T) {
	b, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range strings.Split(string(b), "\n") {
		if strings.HasPrefix(strings.TrimSpace(l), "replace") {
			t.Errorf("go.mod has %q", l)
		}
	}
}
