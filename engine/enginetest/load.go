package enginetest

import (
	"bytes"
	"compress/gzip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// loads are archives that are whole, and of which no container could be made.
func (s *suite) loads(t *testing.T) {
	torn := func(b []byte) []byte {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		_, _ = w.Write(b)
		_ = w.Close()
		return z.Bytes()[:20]
	}
	for name, layer := range map[string][]byte{
		"text": []byte(strings.Repeat("no tar at all. ", 100)), "little text": []byte("no"), "a zip of text": torn([]byte("no tar")), "half a zip": torn(bytes.Repeat([]byte("x"), 5000)),
	} {
		t.Run("a layer of "+name, func(t *testing.T) {
			img := s.tiny(t)
			img.Layer = layer
			for kind, b := range map[string][]byte{"oci": Archive(t, img), "docker": DockerArchive(t, img)} {
				_, err := s.Engine.Images().Load(t.Context(), bytes.NewReader(b))
				if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "cannot be unpacked") {
					t.Errorf("%s: %v", kind, err)
				}
			}
		})
	}
	t.Run("no image", func(t *testing.T) {
		img := s.tiny(t)
		img.ConfigType = "application/vnd.example.chart.v1+json"
		_, err := s.Engine.Images().Load(t.Context(), bytes.NewReader(Archive(t, img)))
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "is no image") || !strings.Contains(err.Error(), img.ConfigType) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a layer without files", func(t *testing.T) {
		img := s.tiny(t)
		img.Layer = Tar(t, nil, nil, nil)
		_, err := s.Engine.Images().Load(t.Context(), bytes.NewReader(Archive(t, img)))
		s.ok(t, err)
	})
}
