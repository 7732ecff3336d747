package local

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/buildkit/executor/resources"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/buildkit/executor/runcexecutor"
	"github.com/moby/buildkit/solver/pb"
	bknet "github.com/moby/buildkit/util/network"
	"github.com/moby/buildkit/util/progress"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"slipway/engine"
)

// steps runs the steps of builds: BuildKit's executor, in our namespaces, our
// cgroup and with limits.
type steps struct {
	executor.Executor
	cgroups cgroups
	parent  string // cgroup of what ends
	mu      sync.Mutex
	running map[*step]bool
	leaving int        // groups of ended steps that are being removed
	left    *sync.Cond // one of them is
}

// step is one that runs.
type step struct {
	ctx   context.Context
	began time.Time
	done  chan struct{}
}

// pidsKey is the context's value with the greatest number of processes.
type pidsKey struct{}

func (e *Engine) openSteps() (*steps, error) {
	if err := os.MkdirAll(e.executorRoot(), 0o711); err != nil {
		return nil, err
	}
	mon, err := resources.NewMonitor()
	if err != nil {
		return nil, err
	}
	adj := max(oomWork, e.oomServe)
	x, err := runcexecutor.New(runcexecutor.Opt{
		Root:                e.executorRoot(),
		CommandCandidates:   []string{e.runc},
		DefaultCgroupParent: e.workCgroup(),
		ProcessMode:         oci.ProcessSandbox,
		OOMScoreAdj:         &adj,
		DNS:                 &oci.DNSConfig{Nameservers: []string{e.net.gateway()}, Options: []string{"ndots:0"}},
		ResourceMonitor:     mon,
	}, map[pb.NetMode]bknet.Provider{
		pb.NetMode_UNSET: bounded{e.net},
		pb.NetMode_NONE:  bounded{bknet.NewNoneProvider()},
	})
	if err != nil {
		return nil, err
	}
	s := &steps{Executor: x, cgroups: e.cgroups, parent: e.workCgroup(), running: map[*step]bool{}}
	s.left = sync.NewCond(&s.mu)
	return s, nil
}

// stepLimits puts the limits of a step into LLB. BuildKit's own field has no place
// for the number of processes, so it travels in that for CPU shares, which we
// do not use; Run takes it out again.
func (e *Engine) stepLimits(l engine.Limits) *pb.LinuxResources {
	r := &pb.LinuxResources{Memory: l.Memory, CpuShares: defaultPids}
	if l.Pids > 0 {
		r.CpuShares = uint64(l.Pids)
	}
	if !e.noSwapLimit {
		r.MemorySwap = l.Memory
	}
	if l.CPUs > 0 {
		r.CpuPeriod, r.CpuQuota = cpuPeriod, int64(l.CPUs*cpuPeriod)
	}
	return r
}

// Run implements executor.Executor.
func (s *steps) Run(ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, p executor.ProcessInfo, started chan<- struct{}) (resourcestypes.Recorder, error) {
	pids := int64(defaultPids)
	if l := p.Meta.LinuxResources; l != nil {
		l = l.CloneVT()
		if l.CpuShares > 0 {
			pids = int64(l.CpuShares)
		}
		l.CpuShares = 0
		p.Meta.LinuxResources = l
	}
	one := &step{ctx: ctx, began: time.Now(), done: make(chan struct{})}
	s.mu.Lock()
	s.running[one] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.running, one)
		s.mu.Unlock()
		close(one.done)
	}()
	// Its own cgroup goes with its end; the one around it is there to be read.
	name := "step-" + newID() // BuildKit mostly leaves id to its executor
	group := s.parent + "/" + name
	p.Meta.CgroupParent = group
	rec, err := s.Executor.Run(context.WithValue(ctx, pidsKey{}, pids), id, root, mounts, p, started)
	tell(ctx, name, s.cgroups.used(group))
	s.leave(group)
	return rec, err
}

// leave removes the group of a step beside what comes next.
func (s *steps) leave(group string) {
	s.mu.Lock()
	s.leaving++
	s.mu.Unlock()
	go func() {
		s.cgroups.remove(group)
		s.mu.Lock()
		s.leaving--
		s.mu.Unlock()
		s.left.Broadcast()
	}()
}

// tidied waits until the groups of ended steps are gone.
func (s *steps) tidied() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.leaving > 0 {
		s.left.Wait()
	}
}

// usedWord is the name of a report of what a step has used: µs of so many bytes.
const usedWord = "slipway used"

// tell puts what a step has used among the reports of the builds that it is of.
func tell(ctx context.Context, name string, u engine.Usage) {
	if w, ok, _ := progress.NewFromContext(ctx); ok {
		_ = w.Write(name, progress.Status{Action: usedWord, Current: int(u.CPU.Microseconds()), Total: int(u.Memory)})
		_ = w.Close()
	}
}

// settled waits until no step that was cancelled runs any more.
func (s *steps) settled(limit time.Duration) {
	late := time.After(limit)
	for {
		var wait *step
		s.mu.Lock()
		for one := range s.running {
			if one.ctx.Err() != nil {
				wait = one
			}
		}
		s.mu.Unlock()
		if wait == nil {
			return
		}
		select {
		case <-wait.done:
		case <-late:
			return
		}
	}
}

// bounded is a network whose namespaces bound the number of processes too:
// this is where the specification of a step passes by.
type bounded struct{ bknet.Provider }

// New implements network.Provider.
func (b bounded) New(ctx context.Context, host string, opt bknet.NamespaceOptions) (bknet.Namespace, error) {
	ns, err := b.Provider.New(ctx, host, opt)
	if err != nil {
		return nil, err
	}
	pids, _ := ctx.Value(pidsKey{}).(int64)
	return boundedNamespace{ns, pids}, nil
}

type boundedNamespace struct {
	bknet.Namespace
	pids int64
}

// Set implements network.Namespace.
func (b boundedNamespace) Set(s *specs.Spec) error {
	if b.pids > 0 {
		if s.Linux.Resources == nil {
			s.Linux.Resources = &specs.LinuxResources{}
		}
		s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &b.pids}
	}
	return b.Namespace.Set(s)
}
