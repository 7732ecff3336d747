package serve

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"slipway/engine/local"
)

// Version is what the program is made of.
type Version struct {
	Version    string `json:"version"`
	Commit     string `json:"commit,omitempty"`
	Built      string `json:"built,omitempty"` // of the commit, UTC
	Go         string `json:"go"`
	Containerd string `json:"containerd"`
	BuildKit   string `json:"buildkit"`
	Runc       string `json:"runc"`
}

// NewVersion completes what the linker said by what the binary knows.
func NewVersion(version, commit string) Version {
	v := Version{Version: version, Commit: commit, Runc: local.RuncVersion}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Go = info.GoVersion
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.time":
			if t, err := time.Parse(time.RFC3339, s.Value); err == nil {
				v.Built = t.UTC().Format(time.RFC3339)
			}
		case "vcs.revision":
			if v.Commit == "" {
				v.Commit = s.Value
			}
		}
	}
	for _, d := range info.Deps {
		switch d.Path {
		case "github.com/containerd/containerd/v2":
			v.Containerd = d.Version
		case "github.com/moby/buildkit":
			v.BuildKit = d.Version
		}
	}
	return v
}

// Print writes it for people or as JSON.
func (v Version) Print(w io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	_, err := fmt.Fprintf(w, "slipway %s\n", v.Version)
	for _, l := range [][2]string{
		{"commit", v.Commit}, {"built", v.Built}, {"go", v.Go}, {"containerd", v.Containerd}, {"buildkit", v.BuildKit}, {"runc", v.Runc},
	} {
		if l[1] != "" && err == nil {
			_, err = fmt.Fprintf(w, "  %-11s %s\n", l[0], l[1])
		}
	}
	return err
}
