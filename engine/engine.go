package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/containerd/errdefs"
)

// ErrDetach as the cause of a cancelled context means: leave it running, we
// are going away.
var ErrDetach = errors.New("the server is going away")

// ErrNoImage is what a lookup says of a name whose image, if there were one,
// would be here: that of the own registry.
var ErrNoImage = fmt.Errorf("no such image: %w", errdefs.ErrNotFound)

// Owner names whom a thing in the engine belongs to: "execution/<uuid>" or
// "stack/<uuid>".
type Owner string

// Builder turns a Dockerfile into an image.
type Builder interface {
	// Build builds spec and keeps the result in the engine's store. A build that
	// fails for a reason in its source is a BuildResult with Failure set. The
	// result is kept from the collector under the hold "build/<id>" until
	// Images.Release.
	Build(ctx context.Context, id string, spec BuildSpec) (BuildResult, error)
}

// Runner runs a container to its end.
type Runner interface {
	// Run starts id, or attaches to it, and waits for its end. The exit record
	// stays until Forget, so that a repeated call gives the same Exit.
	Run(ctx context.Context, id string, spec RunSpec) (Exit, error)
	// Forget drops what is kept of an ended run. It is no error if there is none.
	Forget(ctx context.Context, id string) error
}

// Workloads keeps the containers of services. It never restarts one by
// itself: that is decided above the seam, and each start has an id of its own.
type Workloads interface {
	// Observe gives every instance of owner that was started and not removed,
	// ended ones too, oldest first.
	Observe(ctx context.Context, owner Owner) ([]Instance, error)
	// Apply makes one change and returns when it is done: a started container
	// runs (or its failure to start is its Exit), a stopped one has ended, a
	// removed one has left nothing.
	Apply(ctx context.Context, owner Owner, change Change) error
	// Changed tells that something of owner is different now. A reader that is
	// slow sees one owner once. There is one channel for the engine's life.
	Changed() <-chan Owner
}

// Volumes holds directories that outlive containers: the volumes of stacks and
// the file systems of pipelines.
type Volumes interface {
	// Ensure makes the volume if it is not there.
	Ensure(ctx context.Context, id string, owner Owner) error
	// Remove removes it with its data. It is no error if there is none.
	Remove(ctx context.Context, id string) error
	// Put unpacks a tar below dir, which is made. No entry, link or path of it
	// leads out of the volume.
	Put(ctx context.Context, id, dir string, tar io.Reader) error
	// Get gives path (a file or a directory) as a tar.
	Get(ctx context.Context, id, path string) (io.ReadCloser, error)
	// Usage is the size on disk in bytes.
	Usage(ctx context.Context, id string) (int64, error)
}

// Images is the store of images. A digest is that of a manifest or an index.
//
// Registries fail in these ways: errdefs.ErrUnauthenticated, the login (or its
// absence) is refused; ErrNotFound, there is no such image, or none for the
// platform; ErrUnavailable, it cannot be reached or is out of order;
// ErrFailedPrecondition, the host answers but is no registry.
type Images interface {
	// Pull brings an image from its registry into the store, where it stays for a
	// day without a hold. The error of a refused login names host and user.
	Pull(ctx context.Context, spec PullSpec) (Image, error)
	// Head asks the registry for the digest behind a reference, no more.
	Head(ctx context.Context, spec PullSpec) (digest string, err error)
	// CheckLogin asks the registry of a login whether it lets that user in, and
	// no more. Without a user name it only asks whether there is a registry.
	CheckLogin(ctx context.Context, login Login) error
	// Push sends an image of the store to a registry.
	Push(ctx context.Context, digest, ref string, logins []Login) error
	// Inspect tells of an image in the store; errdefs.ErrNotFound if it, or a
	// part of it that the platform needs, is not there. Platform "" is the host's.
	Inspect(ctx context.Context, digest, platform string) (Image, error)
	// Load reads an OCI or docker archive, which must be whole in itself. Nothing
	// is kept of a broken one (errdefs.ErrInvalidArgument); without a hold the
	// images stay for a day.
	Load(ctx context.Context, archive io.Reader) ([]LoadedImage, error)
	// Export writes an OCI archive.
	Export(ctx context.Context, digest, name string, w io.Writer) error
	// Hold keeps an image, with all it refers to, from the collector under an id
	// of the caller's. Holding again under the same id moves the hold. It is
	// durable when it returns.
	Hold(ctx context.Context, id, digest string) error
	// Release ends a hold. It is no error if there is none.
	Release(ctx context.Context, id string) error
	// Holds lists the ids that begin with prefix, with their digests.
	Holds(ctx context.Context, prefix string) (map[string]string, error)
}

// Blobs is the content below the images, for the registry.
type Blobs interface {
	// Open reads a blob.
	Open(ctx context.Context, digest string) (Blob, error)
	// Stat gives the size; errdefs.ErrNotFound if it is not there.
	Stat(ctx context.Context, digest string) (int64, error)
	// Create begins an upload, or goes on with the one of that ref. What was
	// uploaded stays for a day, over restarts too. While another writer of it is
	// open that is errdefs.ErrUnavailable.
	Create(ctx context.Context, ref string) (BlobWriter, error)
	// Abort drops an upload.
	Abort(ctx context.Context, ref string) error
	// PutManifest stores a manifest or index that refers to blobs of the store
	// and links it to them, so that holding it holds them; holding the subject of
	// a manifest holds the manifest too. errdefs.ErrNotFound names the first blob
	// that is missing, ErrInvalidArgument says that it is no manifest. Whether the
	// caller may use these blobs is for the caller to know.
	PutManifest(ctx context.Context, mediaType string, body []byte) (digest string, err error)
	// Walk calls f for every blob.
	Walk(ctx context.Context, f func(digest string, size int64) error) error
}

// Blob is an open blob.
type Blob interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// BlobWriter is an upload in progress.
type BlobWriter interface {
	io.WriteCloser
	// Size is how much has been written, by earlier writers of this upload too.
	Size() int64
	// Commit checks the digest (errdefs.ErrInvalidArgument if it is another) and
	// makes the blob durable. A fresh blob is kept from the collector for a day,
	// until a manifest refers to it. That the blob is there already is success.
	Commit(ctx context.Context, digest string) error
}

// Engine is what every engine must be.
type Engine interface {
	Builder
	Runner
	Workloads
	Volumes() Volumes
	Images() Images
	Blobs() Blobs
	// Owners lists whom the engine has anything of.
	Owners(ctx context.Context) ([]Owner, error)
	// Remove takes away all that owner has: runs, instances, networks and
	// volumes.
	Remove(ctx context.Context, owner Owner) error
	// Close leaves all containers running.
	Close() error
}

// Execer runs one more program in a container.
type Execer interface {
	// Exec gives the exit code of the program.
	Exec(ctx context.Context, instance string, spec ExecSpec) (code int, err error)
}

// Stater measures a container.
type Stater interface {
	Stats(ctx context.Context, instance string) (Stats, error)
}

// Snapshotter copies volumes, and keeps what was in them: without copying the data of
// larger files where the file system can.
type Snapshotter interface {
	// Clone makes to, which must not exist, with the content of from.
	Clone(ctx context.Context, from, to string, owner Owner) error
	// Snapshot keeps what a volume has now under an id of owner's, whole or not
	// at all; nobody may write to the volume meanwhile. What is kept under that id
	// already stays as it is. errdefs.ErrResourceExhausted says that it would be
	// more than the bounds, or than the disk has room for.
	Snapshot(ctx context.Context, owner Owner, id, volume string, most SnapshotBounds) (Snapshot, error)
	// Restore makes volume, which must not exist, with the content of a snapshot:
	// errdefs.ErrNotFound if there is none, ErrDataLoss if it is not whole.
	Restore(ctx context.Context, owner Owner, id, volume string) error
	// Snapshots lists the ids that owner has something under.
	Snapshots(ctx context.Context, owner Owner) ([]string, error)
	// DropSnapshots removes some, and what no other one of owner's has. It is no
	// error if there are none.
	DropSnapshots(ctx context.Context, owner Owner, ids ...string) error
}

// SnapshotBounds is what a snapshot may be at most; 0 is no bound.
type SnapshotBounds struct {
	Files int   // files, directories and links
	Added int64 // bytes that no other snapshot of the owner has
}

// Snapshot is what is kept of a volume.
type Snapshot struct {
	Files int   // files, directories and links
	Size  int64 // bytes of all its files
	Added int64 // bytes that no other snapshot of the owner had
}

// Cacher shows and bounds the build cache of a workspace.
type Cacher interface {
	CacheUsage(ctx context.Context, workspace string) ([]CacheRecord, error)
	// ClearCache forgets the cached steps and cache mounts of an owner, "" are
	// those of the whole workspace, and says how many bytes that freed: what is in
	// use, or was given to others, stays.
	ClearCache(ctx context.Context, workspace string, owner Owner) (int64, error)
}

// Directories is an engine whose volumes can be reached as directories of this
// host. Their content is not to be trusted: open below them with os.Root, and what
// is to be a file with plainfile.
type Directories interface {
	Dir(ctx context.Context, volume string) (string, error)
}

// Networks is an engine with networks of its own, where service names must be
// answered by us.
type Networks interface {
	// Networks lists the networks there are: that of the actions and builds under
	// the name "", and one for each project with services.
	Networks(ctx context.Context) ([]Network, error)
}

// Network is one network of containers.
type Network struct {
	Name    string       // as in ServiceSpec.Network
	Gateway netip.Addr   // where its containers send their DNS questions
	Prefix  netip.Prefix // of its containers
}

// Login is what to say to a registry.
type Login struct {
	Host     string // "host[:port]"
	Username string // "" is anonymous
	Password string
	Insecure bool // do not check the certificate, and fall back to plain HTTP
}

// Limits of a container; 0 is the engine's default.
type Limits struct {
	Memory int64 // bytes
	CPUs   float64
	Pids   int64
}

// Source is where a build finds its files: a volume, or an archive.
type Source struct {
	Volume  string
	Archive func(ctx context.Context) (io.ReadCloser, error) // a tar
}

// BuildSpec is one build.
type BuildSpec struct {
	Owner     Owner
	Workspace string // nothing of a cache ever leaves it
	Cache     BuildCache
	Source    Source

	Context    string   // directory in the source; "" or "/" is all of it
	Dockerfile string   // path in the source
	Target     string   // stage; "" is the last
	Platforms  []string // "" or none: the host's
	Args       map[string]string
	Secrets    []BuildSecret
	NoNetwork  bool
	NoCache    bool
	Pull       bool   // ask registries for the base images even if they are there
	KeepGit    bool   // .git is part of the context
	Provenance string // "", "min", "max"

	// Name is put into the image's metadata and onto progress lines.
	Name string
	Also []string // what else the image will be called, for the log
	// Lookup answers for images that no registry needs to be asked for: those
	// of the own registry, loaded ones, ones pulled before (with Pull, not the
	// last). ref is complete: host, repository, and tag or digest. A miss is
	// errdefs.ErrNotFound; so is treated what has no image for the platform.
	// ErrNoImage says that no registry is to be asked either. What
	// the engine pulls itself it keeps for later builds of that workspace alone.
	Lookup func(ctx context.Context, ref string) (digest string, err error)
	Logins []Login

	Limits  Limits // of each step
	Timeout time.Duration
	Mask    [][]byte
	Log     string // directory of the log (logs/segment)
	LogMax  int64  // bytes; 0 is no bound
}

// BuildCache says whose cached steps a build uses, within its workspace. What an
// owner has of the cache goes with Engine.Remove.
type BuildCache struct {
	// Owner has the steps: what a build of the same owner did is not done again. ""
	// is an owner too.
	Owner Owner
	// Scope is what builds of several owners have in common; "" is nothing.
	Scope Owner
	// Take: what others gave to Scope is used too.
	Take bool
	// Give is what of the build others of Scope may use: GiveNothing, GiveImage or
	// GiveAll. Who gives also has its cache mounts in common with Scope; else they
	// are Owner's.
	Give Given
}

// Given is what a build gives to others.
type Given string

// What a build gives.
const (
	GiveNothing Given = ""
	GiveImage   Given = "image" // the steps that its image consists of
	GiveAll     Given = "all"   // those of all its stages
)

// Mounts is who has the cache mounts of a build.
func (c BuildCache) Mounts() Owner {
	if c.Give == GiveNothing {
		return c.Owner
	}
	return c.Scope
}

// BuildSecret is a value that one step of a build may read.
type BuildSecret struct {
	ID    string
	Value []byte
}

// BuildResult says what came out.
type BuildResult struct {
	Image   Image
	Steps   int
	Cached  int // steps answered from the cache
	List    []BuildStep
	Args    []string // arguments that the Dockerfile declares
	Text    string   // digest of the Dockerfile as it stands
	Used    Usage    // by the commands of its steps: memory of the one that needed most
	Failure string   // why there is no image: what failed, where, what to do
	Refused bool     // a registry gives an image that it needs not to that login, or to nobody without one
	Reason  Reason   // why it was ended, if it was
}

// BuildStep is a step of a Dockerfile that was begun: an instruction that makes a
// layer, or begins a stage.
type BuildStep struct {
	Stage     string // name, after the platform if there are several; "" for the only one
	Index, Of int    // in its stage, from 1
	Text      string // the instruction, with its variables put in
	Cached    bool
	Done      bool
	After     []int // places in the list of those whose results it takes
	// Of one that was not cached and copies: from which stage, image or address, ""
	// is the context; and which of those files of the context were written since it
	// was read before, as far as that is known.
	Copies  bool
	From    string
	Written []string
}

// Image is an image of the store.
type Image struct {
	Digest       string // of the manifest, or of the index
	ConfigDigest string // of the platform asked for
	Platforms    []string
	Size         int64 // bytes of all blobs of the platform, as stored
	Created      time.Time
	User         string
	Env          []string
	Entrypoint   []string
	Command      []string
	Dir          string
	Ports        []string // "80/tcp"
	Volumes      []string
	Labels       map[string]string
	StopSignal   string
}

// LoadedImage is an image of an archive with the name that the archive gives
// it, or none.
type LoadedImage struct {
	Name string
	Image
}

// PullSpec says what to bring.
type PullSpec struct {
	Ref      string // normalized, with host
	Platform string // "" is the host's
	Logins   []Login
}

// Mount puts a part of a volume into a container.
type Mount struct {
	Volume   string
	Path     string // in the volume; made as a directory if it is not there
	Target   string // in the container
	ReadOnly bool
	// Own makes the user of the container the owner of all that is there, before
	// it starts: any user may write. Not if it is ReadOnly.
	Own bool
}

// File is a file that is put into a container, in memory only.
type File struct {
	Path    string
	Mode    uint32
	Content []byte
}

// RunSpec is one run.
type RunSpec struct {
	Owner     Owner
	Workspace string

	Image      string // digest
	Platform   string // "" is the host's
	Entrypoint []string
	Command    []string // nil: of the image; with an Entrypoint given the image's does not count
	Env        []string
	Dir        string
	User       string
	Mounts     []Mount
	Files      []File
	Network    string // "": a way out only; "none"; else the network of that project
	Limits     Limits

	// Output, if given, is the path of a file that the container may write, empty
	// at first, no part of its file system and in memory only. What is in it at
	// the end is Exit.Output.
	Output string

	NoNewPrivileges bool
	Timeout         time.Duration // 0: none
	Grace           time.Duration // between the stop signal and SIGKILL; 0: none

	// Export writes the container's file system as one tar to that place after
	// the end, whatever the code. It is replaced whole or not at all.
	Export *VolumePath

	Mask   [][]byte
	Log    string // directory of the log (logs/segment)
	LogMax int64  // bytes; 0 is no bound
}

// VolumePath is a place in a volume.
type VolumePath struct{ Volume, Path string }

// Reason says why a container or build was ended from outside.
type Reason string

// Reasons.
const (
	ReasonNone    Reason = ""
	ReasonCancel  Reason = "cancel"  // the caller's context
	ReasonTimeout Reason = "timeout" // its own time was over
	ReasonStop    Reason = "stop"    // Change.Stop, or Remove
	ReasonHost    Reason = "host"    // the host was shut down or restarted
	ReasonLost    Reason = "lost"    // its monitor was killed; the code is not known
)

// Exit is the end of a container.
type Exit struct {
	Code    int // 128+signal if a signal ended it, 127 if the program is not there, -1 if not known
	Signal  int
	OOM     bool // it ran out of memory
	Reason  Reason
	Message string // why it did not start, or why its end is not known
	Started time.Time
	Ended   time.Time
	Used    Usage
	LostLog int64 // bytes of output that could not be written
	// Output is what a run wrote to its RunSpec.Output; with MaxOutput bytes the
	// rest is cut off. After a restart of the host it is empty.
	Output string
}

// Usage is what containers have used until their end; 0 is not known.
type Usage struct {
	Memory int64 // bytes at the peak, with what the kernel kept of files for them
	CPU    time.Duration
}

// MaxOutput bounds Exit.Output, in bytes.
const MaxOutput = 1 << 20

// InstanceState is how far an instance is.
type InstanceState string

// States of an instance.
const (
	Starting InstanceState = "starting"
	Running  InstanceState = "running"
	Stopping InstanceState = "stopping"
	Ended    InstanceState = "ended"
)

// ServiceSpec is one start of a service.
type ServiceSpec struct {
	ID        string // of the instance; new for every start
	Service   string // id of the service
	Hash      string // of the definition, given back by Observe
	Workspace string
	Network   string // project whose network it joins

	Name       string // host name
	Image      string // digest
	Entrypoint []string
	Command    []string
	Env        []string
	Dir        string
	User       string
	Mounts     []Mount
	Files      []File
	Limits     Limits

	NoNewPrivileges bool
	StopSignal      string // "SIGTERM" if ""
	StopGrace       time.Duration
	Log             string // directory of the service's log, the same for every start
	LogKeep         int64  // bytes kept; older ones are dropped
}

// Change is one step towards what is wanted; exactly one field is set.
type Change struct {
	Start  *ServiceSpec
	Stop   *StopSpec
	Remove string // id of an ended instance: its record, layer and address are dropped
}

// StopSpec stops an instance; its record stays until it is removed.
type StopSpec struct {
	ID    string
	Grace time.Duration
}

// Instance is a container of a service, as it is.
type Instance struct {
	ID      string
	Service string
	Hash    string
	Name    string
	Image   string
	Network string
	Addr    netip.Addr
	State   InstanceState
	Started time.Time
	Exit    *Exit // set when State is Ended
}

// ExecSpec is one more program in a container.
type ExecSpec struct {
	Command []string
	Env     []string
	Dir     string
	User    string
	TTY     bool
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Resize  <-chan [2]uint16 // columns, rows
}

// Stats is what a container uses now.
type Stats struct {
	Memory  int64 // bytes
	Limit   int64 // bytes; 0 is none
	CPU     time.Duration
	Pids    int64
	ReadAt  time.Time
	RxBytes int64
	TxBytes int64
}

// CacheRecord is one entry of the build cache.
type CacheRecord struct {
	ID       string
	What     string
	Size     int64
	Created  time.Time
	LastUsed time.Time
	InUse    bool
}
