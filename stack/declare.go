package stack

import (
	"maps"
	"reflect"
)

// normal gives the form in which definitions are kept and compared: what is
// empty is nil.
func (d Definition) normal() Definition {
	if len(d.Entrypoint) == 0 {
		d.Entrypoint = nil
	}
	if len(d.Command) == 0 {
		d.Command = nil
	}
	if len(d.Env) == 0 {
		d.Env = nil
	}
	if len(d.Ports) == 0 {
		d.Ports = nil
	}
	if len(d.Mounts) == 0 {
		d.Mounts = nil
	}
	return d
}

// Equal tells whether two definitions make the same container.
func (d Definition) Equal(o Definition) bool { return reflect.DeepEqual(d.normal(), o.normal()) }

// mounts tells whether a volume is mounted.
func (d Definition) mounts(key string) bool {
	for _, m := range d.Mounts {
		if m.Volume == key {
			return true
		}
	}
	return false
}

// writes lists the volumes that are mounted read-write. The project's file
// system is not among them: it is there to be shared.
func (d Definition) writes() []string {
	var keys []string
	for _, m := range d.Mounts {
		if m.Volume != "" && !m.ReadOnly {
			keys = append(keys, m.Volume)
		}
	}
	return keys
}

// merge gives what the stack shall be after a patch. orphans are the volumes
// that are kept and not declared, name by key.
func (p Patch) merge(have Declaration, orphans map[string]string) Declaration {
	out := Declaration{Services: maps.Clone(have.Services), Volumes: maps.Clone(have.Volumes), Ignored: p.Ignored}
	if out.Services == nil {
		out.Services = map[string]Declared{}
	}
	if out.Volumes == nil {
		out.Volumes = map[string]string{}
	}
	for name, s := range p.Services {
		if s.Remove {
			delete(out.Services, name)
			continue
		}
		out.Services[name] = s.merge(out.Services[name])
	}
	for key, v := range p.Volumes {
		name, attached := have.Volumes[key]
		was, orphan := orphans[key]
		switch {
		case v.Name != nil:
			out.Volumes[key] = *v.Name
		case !attached && !orphan:
			out.Volumes[key] = key
		case out.mounted(key):
			if !attached {
				name = was
			}
			out.Volumes[key] = name
		default:
			delete(out.Volumes, key)
		}
	}
	return out
}

func (d Declaration) mounted(key string) bool {
	for _, s := range d.Services {
		if s.mounts(key) {
			return true
		}
	}
	return false
}

// missing lists mounts of volumes that are not declared, as "service: volume".
func (d Declaration) missing() (service, volume string, found bool) {
	for _, name := range sortedKeys(d.Services) {
		for _, m := range d.Services[name].Mounts {
			if _, ok := d.Volumes[m.Volume]; m.Volume != "" && !ok {
				return name, m.Volume, true
			}
		}
	}
	return "", "", false
}

func (p ServicePatch) merge(d Declared) Declared {
	set(&d.Description, p.Description)
	set(&d.Restart, p.Restart)
	set(&d.Image, p.Image)
	set(&d.Entrypoint, p.Entrypoint)
	set(&d.Command, p.Command)
	set(&d.Env, p.Env)
	set(&d.Ports, p.Ports)
	set(&d.Mounts, p.Mounts)
	set(&d.Limits.CPUs, p.CPUs)
	set(&d.Limits.Memory, p.Memory)
	return d
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}
