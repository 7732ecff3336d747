package fake

import (
	"slipway/logs/segment"
)

// logWriter writes whole lines, masked; a nil one writes nothing.
type logWriter struct {
	w *segment.Writer
	m *segment.Masker
}

func openLog(dir string, limit, keep int64, mask [][]byte) (*logWriter, error) {
	if dir == "" {
		return nil, nil
	}
	w, err := segment.Open(dir, segment.Options{Max: limit, Keep: keep})
	if err != nil {
		return nil, err
	}
	return &logWriter{w, segment.NewMasker(mask)}, nil
}

func (l *logWriter) line(stream byte, text string) {
	if l != nil {
		l.w.Line(stream, l.m.Line([]byte(text)))
	}
}

func (l *logWriter) close() {
	if l != nil {
		_ = l.w.Close()
	}
}
