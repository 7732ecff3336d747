package image

import (
	"strings"
	"sync"
	"time"

	"slipway/db"
	"slipway/engine"
	"slipway/project"
)

// Tagged is the data of event.ImageTagged.
type Tagged struct {
	Repository string `json:"repository"` // <workspace>/<name>
	Tag        string `json:"tag"`
	Digest     string `json:"digest"`
	User       int64  `json:"user"`
}

// Tag is a name of an image.
type Tag struct {
	Repository string // <workspace domain>/<name>; for an outside one the full name with host
	Tag        string
	Digest     string
	ConfigID   string // hex of the config digest; of an index, of its own
	Own        bool   // of the own registry; else loaded or pulled
	Updated    time.Time
}

// Repository is a named set of images.
type Repository struct {
	Name          string
	Public        bool
	Pulls, Pushes int64
	Pulled        time.Time
	Pushed        time.Time
}

// Config is what the room is told by serve.
type Config struct {
	// Hosts are the names that mean the own registry: host of the public URL,
	// the listen address, and slipway.local.
	Hosts []string
	// Room tells why nothing new may be stored (too little free disk); nil never
	// does.
	Room func() error
	// Full tells why not even what is being stored goes on; nil never does.
	Full func() error
}

// Images is the front door.
type Images struct {
	db       *db.DB
	projects *project.Projects
	store    engine.Images
	blobs    engine.Blobs
	hosts    map[string]bool
	room     func() error
	full     func() error

	// making is held for reading from the making of a hold to the commit of
	// its row, and for writing while holds without a row are released.
	making sync.RWMutex

	counting sync.Mutex
	pulls    map[int64]pulled // not yet written, by repository
}

type pulled struct {
	n    int64
	last time.Time
}

// New makes the front door.
func New(cfg Config, d *db.DB, p *project.Projects, store engine.Images, blobs engine.Blobs) *Images {
	i := &Images{db: d, projects: p, store: store, blobs: blobs, hosts: map[string]bool{}, room: cfg.Room, full: cfg.Full, pulls: map[int64]pulled{}}
	for _, h := range cfg.Hosts {
		i.hosts[strings.ToLower(h)] = true
	}
	if i.room == nil {
		i.room = func() error { return nil }
	}
	if i.full == nil {
		i.full = func() error { return nil }
	}
	return i
}
