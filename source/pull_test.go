package source

import (
	"slices"
	"testing"
)

func TestPullRefs(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][]string{
		"12":                       {"refs/pull/12/head", "refs/merge-requests/12/head", "refs/pull-requests/12/from"},
		"pull/12":                  {"refs/pull/12/head"},
		"pull/12/merge":            {"refs/pull/12/merge"},
		"refs/merge-requests/3":    {"refs/merge-requests/3/head"},
		"pull-requests/4/from":     {"refs/pull-requests/4/from"},
		"main":                     nil,
		"refs/heads/1":             nil,
		"pull/1/../../heads/main":  nil,
		"--upload-pack=x/pull/1":   nil,
		"12345678901":              nil,
		"pull/7/head\nrefs/heads/": nil,
	} {
		if got := pullRefs(name); !slices.Equal(got, want) {
			t.Errorf("%q: %v", name, got)
		}
	}
}
