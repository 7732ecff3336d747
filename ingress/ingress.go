// Package ingress is how the outside reaches services: hostnames and paths,
// the table made of them, and the process that serves it. That process is one
// of its own: it goes on while the server is down or replaced, keeps the last
// table it was given, and answers the DNS questions of the containers.
package ingress

import (
	"context"
	"net/netip"
	"time"

	"slipway/access"
	"slipway/db"
	"slipway/project"
)

// ID is the UUID of an ingress.
type ID string

// Ingress leads a hostname to targets.
type Ingress struct {
	ID       ID
	Project  project.ID
	Hostname string // lower case, ASCII form
	Paths    []Path
	Default  bool // the one made with the project; cannot be deleted
	Enabled  bool
	Verified bool
	Created  time.Time
	Updated  time.Time
}

// Path leads a path prefix to one target; exactly one of Service, URL and
// DefaultPage is set.
type Path struct {
	Path        string // begins with /
	Service     string // service UUID
	Port        string // "8080/tcp"
	URL         string // redirect
	DefaultPage bool
}

// Ingresses is the front door.
type Ingresses struct {
	db       *db.DB
	projects *project.Projects
	domain   string
}

// New makes the front door; domain is that of the default ingresses.
func New(d *db.DB, p *project.Projects, domain string) *Ingresses { return &Ingresses{d, p, domain} }

// Create makes an ingress; a hostname that a project has is
// errdefs.ErrAlreadyExists.
func (i *Ingresses) Create(ctx context.Context, by access.Actor, id project.ID, hostname string, paths []Path) (Ingress, error) {
	panic("unwritten")
}

// Get finds one.
func (i *Ingresses) Get(ctx context.Context, by access.Actor, id ID) (Ingress, error) {
	panic("unwritten")
}

// Filter is what List selects.
type Filter struct {
	Project  project.ID
	Hostname string // part of it
	Service  string
}

// List lists those the actor sees, oldest first. The default ingress of a
// project is made when it is first looked for.
func (i *Ingresses) List(ctx context.Context, by access.Actor, f Filter) ([]Ingress, error) {
	panic("unwritten")
}

// SetPaths replaces the paths.
func (i *Ingresses) SetPaths(ctx context.Context, by access.Actor, id ID, paths []Path) (Ingress, error) {
	panic("unwritten")
}

// Delete removes one; the default one is errdefs.ErrFailedPrecondition.
func (i *Ingresses) Delete(ctx context.Context, by access.Actor, id ID) error { panic("unwritten") }

// All lists every ingress without asking who, for Build.
func (i *Ingresses) All(ctx context.Context) ([]Ingress, error) { panic("unwritten") }

// Endpoint is a running instance of a service.
type Endpoint struct {
	Service string // UUID
	Name    string // of the service
	Addr    netip.Addr
	Ports   []Port
}

// Port is a port that a service offers: Public to others of its project,
// Target in the container.
type Port struct {
	Public, Target uint16
	Protocol       string // tcp, udp
}

// Table is all that the ingress process knows. It is replaced whole.
type Table struct {
	Version int64           // grows
	Hosts   map[string]Host // by hostname
	Zones   []Zone
}

// Host is one hostname.
type Host struct {
	Project string
	Routes  []Route // longest path first
}

// Route leads a path prefix to backends.
type Route struct {
	Path     string
	Backends []netip.AddrPort // none: 503
	Why      string           // what the 503 says
	Redirect string
	Page     bool
	Service  string
}

// Zone answers the DNS questions of one network.
type Zone struct {
	Network string
	Listen  netip.Addr
	Prefix  netip.Prefix
	Names   map[string][]netip.Addr
}

// Network is a network that needs a zone.
type Network struct {
	Name    string
	Gateway netip.Addr
	Prefix  netip.Prefix
}

// Build makes the table. It is pure. endpoints are by project, names lists for
// each network what resolves in it.
func Build(version int64, all []Ingress, endpoints map[project.ID][]Endpoint, networks []Network, names map[string]map[string][]netip.Addr) Table {
	panic("unwritten")
}

// Router takes a whole table, every time.
type Router interface {
	Set(ctx context.Context, t Table) error
}

// Config is how the process is started.
type Config struct {
	Program string // path of this program, started as "slipway ingress ..."
	DataDir string
	RunDir  string // of its socket; short
	HTTP    string // listen address, "" is off
	HTTPS   string
	Log     string // its log file
}

// Process starts the ingress process, or takes over the one that runs, and
// keeps it running. It is the Router of the local engine.
type Process struct{}

// Start gives a Process when its listeners are open. A port that is taken is
// an error that names the port.
func Start(ctx context.Context, cfg Config) (*Process, error) { panic("unwritten") }

// Set gives it a table; it is served when Set returns.
func (p *Process) Set(ctx context.Context, t Table) error { panic("unwritten") }

// Addrs are the addresses of the listeners.
func (p *Process) Addrs() (http, https string) { panic("unwritten") }

// Close lets the process run; Stop ends it.
func (p *Process) Close() error { panic("unwritten") }

// Stop ends the process.
func (p *Process) Stop(ctx context.Context) error { panic("unwritten") }

// Main is the ingress process itself; it gives the exit code.
func Main(args []string) int { panic("unwritten") }
