package clock

import (
	"archive/zip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestZonesAreThoseOfTheProgram holds the list to the zones that are linked in.
func TestZonesAreThoseOfTheProgram(t *testing.T) {
	t.Parallel()
	root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	z, err := zip.OpenReader(filepath.Join(strings.TrimSpace(string(root)), "lib", "time", "zoneinfo.zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var want []string
	for _, f := range z.File {
		if !strings.HasSuffix(f.Name, "/") {
			want = append(want, f.Name)
		}
	}
	slices.Sort(want)
	if !slices.Equal(Zones(), want) {
		t.Errorf("go generate ./clock makes another list of zones")
	}
	for _, name := range append(Zones(), "") {
		if _, err := Zone(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"Local", "Europe", "Europe/Nowhere", "../etc/passwd", "+02:00"} {
		if z, err := Zone(name); err == nil {
			t.Errorf("%q is %v", name, z)
		}
	}
}

func TestCron(t *testing.T) {
	t.Parallel()
	berlin, err := Zone("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "* * * *", "* * * * * *", "60 * * * *", "@daily", "TZ=UTC * * * * *", "0 0 30 2 *", "a * * * *"} {
		if _, err := Parse(bad, berlin); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, c := range []struct{ spec, after, want string }{
		{"0 3 * * *", "2026-01-01T00:00:00Z", "2026-01-01T02:00:00Z"},
		{"0 3 * * *", "2026-01-01T02:00:00Z", "2026-01-02T02:00:00Z"},
		{"0 3 * * *", "2026-07-01T00:00:00Z", "2026-07-01T01:00:00Z"},
		{"30 2 * * *", "2026-03-29T00:00:00Z", "2026-03-30T00:30:00Z"}, // 2 h 30 is left out that day
		{"0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-28T23:00:00Z"},
	} {
		n, err := Parse(c.spec, berlin)
		if err != nil {
			t.Fatal(err)
		}
		if got := n.Next(at(c.after)); !got.Equal(at(c.want)) || got.Location() != time.UTC {
			t.Errorf("%s after %s: %s, want %s", c.spec, c.after, got, c.want)
		}
	}
}
