package stack

import (
	"strconv"
	"time"

	"slipway/engine"
	"slipway/project"
)

// ID is the UUID of a stack. The default stack of a project has the project's.
type ID string

// Owner is how the things of the stack are marked in the engine.
func (id ID) Owner() engine.Owner { return engine.Owner("stack/" + string(id)) }

// ServiceID is the UUID of a service.
type ServiceID string

// VolumeID is the UUID of a volume.
type VolumeID string

// Engine is the volume's id in the engine.
func (id VolumeID) Engine() string { return "v-" + string(id) }

// Status is what a service is.
type Status string

// States of a service.
const (
	Creating Status = "creating"
	Starting Status = "starting"
	Running  Status = "running"
	Stopping Status = "stopping"
	Stopped  Status = "stopped"
	Error    Status = "error"
)

// StatusChange is the data of event.ServiceChanged.
type StatusChange struct {
	Service ServiceID `json:"service"`
	Stack   ID        `json:"stack"`
	From    Status    `json:"from"`
	To      Status    `json:"to"`
	Message string    `json:"message,omitempty"`
}

// Changed is the data of event.StackChanged.
type Changed struct {
	Generation int64    `json:"generation"`
	Ignored    []string `json:"ignored,omitempty"` // what the declaration had and no rule reads
}

// DefaultName is the description of the stack that every project has.
const DefaultName = "default"

// Stack is a set of services and volumes that belong together.
type Stack struct {
	ID          ID
	Project     project.ID
	Workspace   string // UUID
	Description string
	Prefix      string // last part of the project-wide names of its services
	// Generation counts what was wished; ObservedGeneration is the newest that
	// was carried out as far as it can be.
	Generation         int64
	ObservedGeneration int64
	Schedule           Schedule
	Services           []Service // by name
	Volumes            []Volume  // by name, orphaned ones too
	Created            time.Time
	Updated            time.Time
}

// Default tells whether it is the stack that every project has.
func (s Stack) Default() bool { return string(s.ID) == string(s.Project) }

// RestartPolicy says what follows when the program of a service ends.
type RestartPolicy string

// Policies. UnlessStopped is the one of a service that names none. Always is
// the same here: what was stopped by its user stays stopped.
const (
	RestartNo     RestartPolicy = "no"
	OnFailure     RestartPolicy = "on-failure"
	Always        RestartPolicy = "always"
	UnlessStopped RestartPolicy = "unless-stopped"
)

// Service is one service.
type Service struct {
	ID          ServiceID
	ShortID     string // c-xxxxxx
	Stack       ID
	Project     project.ID
	Name        string
	Description string
	Restart     RestartPolicy // as declared; "" is UnlessStopped
	Stopped     bool          // its user wants it stopped

	Declared       Definition
	DeclaredDigest string // of its image, "" if not known yet
	// Deployed is the definition of the container that serves; before any has
	// run, the applied one.
	Deployed       Definition
	DeployedDigest string
	// RequiresRecreate: what is declared is not applied, or could not be.
	RequiresRecreate bool

	Status    Status
	StatusSet time.Time
	Message   string // why, for people
	Created   time.Time
}

// Definition is what a container of a service is made of.
type Definition struct {
	Image      string   // as its user wrote it
	Entrypoint []string // nil: of the image
	Command    []string // nil: of the image
	Env        map[string]string
	Ports      []Port
	Mounts     []Mount
	Limits     Limits
	StopGrace  time.Duration // between the stop signal and SIGKILL; 0: 10 s
}

// Port is a port that a service offers: Public to others of its project, Target
// in the container. Its normal form is "8080:80/tcp".
type Port struct {
	Public, Target uint16
	Protocol       string // tcp, udp or sctp
}

func (p Port) String() string {
	return strconv.Itoa(int(p.Public)) + ":" + strconv.Itoa(int(p.Target)) + "/" + p.Protocol
}

// Mount puts a volume of the stack, or a directory of the project's file
// system, into the container. Exactly one of Volume and Home is set.
type Mount struct {
	Volume   string // key of the volume in the stack
	Home     string // short id of the project whose file system is meant
	Path     string // in the project's file system
	Target   string // in the container
	ReadOnly bool
}

func (m Mount) String() string {
	from := m.Volume
	if m.Home != "" {
		from = "/home/" + m.Home
		if m.Path != "" {
			from += "/" + m.Path
		}
	}
	if m.ReadOnly {
		return from + ":" + m.Target + ":ro"
	}
	return from + ":" + m.Target
}

// Limits of a container, as their user wrote them; "" is none.
type Limits struct {
	CPUs   string // "0.5"
	Memory string // "512mb"
}

// Volume is a directory that outlives containers.
type Volume struct {
	ID       VolumeID
	Stack    ID
	Key      string // by which services mount it
	Name     string
	Orphaned bool        // no longer declared; its data is kept
	Services []ServiceID // that mount it
	Usage    int64       // bytes
	UsageSet time.Time
	Created  time.Time
}

// Declaration is all that a stack shall be.
type Declaration struct {
	Services map[string]Declared // by name
	Volumes  map[string]string   // name by key; "" is the key
	Ignored  []string            // for the event: members no rule reads
}

// Declared is what a service shall be.
type Declared struct {
	Description string // "" is the name
	Restart     RestartPolicy
	Definition
}

// Patch changes a part of a stack; nil fields stay.
type Patch struct {
	Description *string
	Schedule    *Schedule // the zero value takes it away
	Services    map[string]ServicePatch
	Volumes     map[string]VolumePatch
	Recreate    bool // apply the changed services at once
	Ignored     []string
}

// ServicePatch changes a service field by field, or makes it.
type ServicePatch struct {
	Remove      bool
	Description *string
	Restart     *RestartPolicy
	Image       *string
	Entrypoint  *[]string
	Command     *[]string
	Env         *map[string]string
	Ports       *[]Port
	Mounts      *[]Mount
	CPUs        *string
	Memory      *string
}

// VolumePatch attaches a volume under a name. Without a name a volume that is
// not there is made, one that a service mounts stays, another is detached.
type VolumePatch struct{ Name *string }
