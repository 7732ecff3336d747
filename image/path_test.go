package image

import (
	"fmt"
	"strings"
	"testing"
)

func TestPathShapes(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/v2":                                  "1  ",
		"/v2/":                                 "1  ",
		"/v2/_catalog":                         "2  ",
		"/v2/_catalog/":                        "0  ",
		"/v2/a/manifests/latest":               "3 a latest",
		"/v2/stacks/foo/manifests/latest":      "3 stacks/foo latest",
		"/v2/projects/p1/blobs/sha256:1":       "4 projects/p1 sha256:1",
		"/v2/a/b/blobs/uploads/":               "5 a/b ",
		"/v2/a/b/blobs/uploads":                "5 a/b ",
		"/v2/a/b/blobs/uploads/xyz":            "6 a/b xyz",
		"/v2/a/b/tags/list":                    "7 a/b ",
		"/v2/a/b/referrers/sha256:1":           "8 a/b sha256:1",
		"/v2/a/blobs/uploads/manifests/latest": "3 a/blobs/uploads latest",
		"/v2/stacks/1":                         "0  ",
		"/v2/stacks/1/services/2":              "0  ",
		"/v2/manifests/latest":                 "0  ",
		"/v2/tags/list":                        "0  ",
		"/v2/a/b/tags/other":                   "0  ",
		"/v2/a/uploads/x":                      "0  ",
		"/v2/container-image-config":           "0  ",
		"/v1/a/manifests/latest":               "0  ",
	} {
		s, repo, last := parsePath(path)
		if got := fmt.Sprintf("%d %s %s", s, repo, last); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"/v2/", "/v2/a/b/manifests/c", "/v2/a/blobs/uploads/x", "/v2//tags/list", "/v2/stacks/1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		s, repo, last := parsePath(path)
		if s == notOCI && (repo != "" || last != "") {
			t.Errorf("%q: %q %q of no shape", path, repo, last)
		}
		if s > catalog && (repo == "" || !strings.Contains(path, repo) || !strings.HasPrefix(path, "/v2/"+repo+"/")) {
			t.Errorf("%q: repository %q", path, repo)
		}
		if last != "" && !strings.HasSuffix(path, "/"+last) {
			t.Errorf("%q: last %q", path, last)
		}
	})
}
