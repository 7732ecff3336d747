package stack

import (
	"fmt"
	"slices"

	"slipway/engine"
	"slipway/project"
)

// want is what the rows ask for. p is the project; gone tells that all of the
// stack shall go.
func (w *world) want(p project.Project, gone bool, log func(ServiceID) string, logKeep int64) Want {
	out := Want{Uses: make(map[string]Use, len(w.definitions))}
	for id, d := range w.definitions {
		u := Use{Writes: d.writes(), Grace: d.StopGrace}
		for _, m := range d.Mounts {
			if m.Volume != "" {
				u.Mounts = append(u.Mounts, m.Volume)
			}
		}
		out.Uses[id] = u
	}
	for _, s := range w.services {
		v := Wanted{
			ID: s.ID, Name: s.Name, Gone: gone || !s.Removed.IsZero(), Stopped: s.Stopped, Hash: s.hash(),
			Policy: s.Restart, Next: s.Next, Ran: s.Ran, History: s.History,
		}
		if v.Policy == "" {
			v.Policy = UnlessStopped
		}
		if !v.Gone {
			v.Spec, v.Problem = w.spec(s, p, log(s.ID), logKeep)
		}
		out.Services = append(out.Services, v)
	}
	for _, v := range w.volumes {
		if !v.Removed.IsZero() {
			out.Volumes = append(out.Volumes, Doomed{ID: v.ID, Key: v.Key, Since: v.Removed})
		}
	}
	return out
}

// spec is the next start of a service, or why there can be none.
func (w *world) spec(s *service, p project.Project, log string, logKeep int64) (*engine.ServiceSpec, string) {
	d := w.definitions[s.Applied]
	if d.Digest == "" {
		return nil, d.Problem
	}
	cpus, err1 := d.Limits.cpus()
	memory, err2 := d.Limits.memory()
	if err1 != nil || err2 != nil {
		return nil, "its limits are damaged"
	}
	spec := &engine.ServiceSpec{
		Service: string(s.ID), Hash: s.hash(), Workspace: p.Workspace, Network: string(p.ID), Name: s.Name,
		Image: d.Digest, Entrypoint: d.Entrypoint, Command: d.Command,
		Limits: engine.Limits{Memory: memory, CPUs: cpus}, StopGrace: d.StopGrace, Log: log, LogKeep: logKeep,
	}
	if spec.StopGrace <= 0 {
		spec.StopGrace = defaultGrace
	}
	for _, k := range sortedKeys(d.Env) {
		spec.Env = append(spec.Env, k+"="+d.Env[k])
	}
	for _, m := range d.Mounts {
		mount := engine.Mount{Target: m.Target, ReadOnly: m.ReadOnly, Path: m.Path}
		if m.Home != "" {
			mount.Volume = homeVolume(p.ID)
		} else if v := w.volume(m.Volume); v != nil {
			mount.Volume = v.ID.Engine()
		} else {
			return nil, fmt.Sprintf("its volume %s was deleted", m.Volume)
		}
		spec.Mounts = append(spec.Mounts, mount)
	}
	return spec, ""
}

// homeVolume is the file system of a project: a volume of its default stack's
// owner that every stack of the project may mount.
func homeVolume(id project.ID) string { return VolumeID(id).Engine() }

// volumeOwner is who owns a volume in the engine.
func (w *world) volumeOwner(volume string) engine.Owner {
	if volume == homeVolume(w.stack.Project) {
		return ID(w.stack.Project).Owner()
	}
	return w.stack.ID.Owner()
}

// unused lists definitions that neither a service nor an instance refers to.
func (w *world) unused(have []engine.Instance) []*definition {
	used := map[string]bool{}
	for _, s := range w.services {
		used[s.Declared], used[s.Applied], used[s.Serving], used[s.Updating] = true, true, true, true
	}
	for _, i := range have {
		used[definitionOf(i.Hash)] = true
	}
	var out []*definition
	for _, id := range sortedKeys(w.definitions) {
		if !used[id] {
			out = append(out, w.definitions[id])
		}
	}
	return slices.Clip(out)
}
