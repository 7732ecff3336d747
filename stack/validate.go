package stack

import (
	"fmt"
	"math"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"slipway/image"
	"slipway/project"
	"slipway/secret"
)

// Bounds of a declaration.
const (
	maxServices = 200
	maxVolumes  = 200
	maxPorts    = 100
	maxMounts   = 100
	minMemory   = 6 << 20
	minCPUs     = 0.01
	maxText     = 1000
)

var (
	serviceName = regexp.MustCompile(`^[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$`)
	volumeKey   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)
)

// Validate gives every bad field of a declaration at once, as a
// *project.Invalid.
func (d Declaration) Validate() error {
	bad := &project.Invalid{}
	if len(d.Services) > maxServices {
		bad.Add("services", "maximum", fmt.Sprintf("a stack has at most %d services", maxServices))
	}
	if len(d.Volumes) > maxVolumes {
		bad.Add("volumes", "maximum", fmt.Sprintf("a stack has at most %d volumes", maxVolumes))
	}
	lower := map[string]string{}
	for _, name := range sortedKeys(d.Services) {
		at := "services." + name
		switch other := lower[strings.ToLower(name)]; {
		case !serviceName.MatchString(name):
			bad.Add(at, "format", "a service name has 1 to 63 letters, digits, - and _, and begins and ends with a letter or digit")
		case other != "":
			bad.Add(at, "conflict", "differs from "+other+" only in upper and lower case")
		}
		lower[strings.ToLower(name)] = name
		d.Services[name].check(bad, at)
	}
	names := map[string]string{}
	for _, key := range sortedKeys(d.Volumes) {
		at := "volumes." + key
		if !volumeKey.MatchString(key) {
			bad.Add(at, "format", "a volume has at most 128 letters, digits, -, _ and ., and begins with a letter or digit")
			continue
		}
		name := d.Volumes[key]
		if name == "" {
			name = key
		}
		if other := names[name]; other != "" {
			bad.Add(at+".name", "conflict", "volumes."+other+" has the same name")
		}
		if !volumeKey.MatchString(name) {
			bad.Add(at+".name", "format", "a volume name has at most 128 letters, digits, -, _ and ., and begins with a letter or digit")
		}
		names[name] = key
	}
	return bad.Err()
}

func (d Declared) check(bad *project.Invalid, at string) {
	bad.Text(at+".description", d.Description, maxText)
	switch d.Restart {
	case "", RestartNo, OnFailure, Always, UnlessStopped:
	default:
		bad.Add(at+".restartPolicy", "enum", "must be one of no, on-failure, always, unless-stopped")
	}
	if d.Image == "" {
		bad.Add(at+".image", "required", "an image is needed")
	} else if _, err := image.Normalize(d.Image); err != nil {
		bad.Add(at+".image", "format", imageProblem(err))
	}
	checkWords(bad, at+".entrypoint", d.Entrypoint)
	checkWords(bad, at+".command", d.Command)
	for _, k := range sortedKeys(d.Env) {
		if k == "" || strings.ContainsAny(k, "=\x00") {
			bad.Add(at+".environment."+k, "format", "the name of a variable is not empty and has no = and no NUL")
		}
		bad.NoNUL(at+".environment."+k, d.Env[k])
		if len(k)+1+len(d.Env[k]) > secret.MaxWord {
			bad.Add(at+".environment."+k, "maximum", fmt.Sprintf("must be at most %d bytes with its name and =: no program can be started with more", secret.MaxWord))
		}
	}
	d.checkPorts(bad, at+".ports")
	d.checkMounts(bad, at+".volumes")
	limits := at + ".deploy.resources.limits"
	if _, err := d.Limits.cpus(); err != nil {
		bad.Add(limits+".cpus", "format", err.Error())
	}
	if _, err := d.Limits.memory(); err != nil {
		bad.Add(limits+".memory", "format", err.Error())
	}
	if d.StopGrace < 0 {
		bad.Add(at+".stop_grace_period", "minimum", "must not be negative")
	}
}

// imageProblem is the message of a bad image reference without its own path.
func imageProblem(err error) string {
	if i, ok := project.AsInvalid(err); ok && len(i.Fields) > 0 {
		return i.Fields[0].Message
	}
	return err.Error()
}

func checkWords(bad *project.Invalid, at string, words []string) {
	for i, w := range words {
		bad.NoNUL(fmt.Sprintf("%s.%d", at, i), w)
		if len(w) > secret.MaxWord {
			bad.Add(fmt.Sprintf("%s.%d", at, i), "maximum", fmt.Sprintf("must be at most %d bytes: no program can be started with more", secret.MaxWord))
		}
	}
}

func (d Definition) checkPorts(bad *project.Invalid, at string) {
	if len(d.Ports) > maxPorts {
		bad.Add(at, "maximum", fmt.Sprintf("at most %d ports", maxPorts))
		return
	}
	seen := map[Port]bool{}
	for i, p := range d.Ports {
		here := fmt.Sprintf("%s.%d", at, i)
		switch p.Protocol {
		case "tcp", "udp", "sctp":
		default:
			bad.Add(here, "format", "the protocol must be tcp, udp or sctp")
			continue
		}
		if p.Public == 0 || p.Target == 0 {
			bad.Add(here, "format", "a port is a number from 1 to 65535")
			continue
		}
		public := Port{Public: p.Public, Protocol: p.Protocol}
		if seen[public] {
			bad.Add(here, "conflict", fmt.Sprintf("port %d/%s is offered twice", p.Public, p.Protocol))
		}
		seen[public] = true
	}
}

func (d Definition) checkMounts(bad *project.Invalid, at string) {
	if len(d.Mounts) > maxMounts {
		bad.Add(at, "maximum", fmt.Sprintf("at most %d volumes", maxMounts))
		return
	}
	seen := map[string]bool{}
	for i, m := range d.Mounts {
		here := fmt.Sprintf("%s.%d", at, i)
		switch {
		case (m.Volume == "") == (m.Home == ""):
			bad.Add(here, "format", "names one volume of the stack, or a directory of the project")
		case m.Volume != "" && !volumeKey.MatchString(m.Volume):
			bad.Add(here, "format", "is not the name of a volume")
		case path.Clean("/"+m.Path) != "/"+m.Path && m.Path != "" || strings.Contains(m.Path, "\x00"):
			bad.Add(here, "format", "the path in the project is not a clean one")
		case !path.IsAbs(m.Target) || strings.Contains(m.Target, "\x00"):
			bad.Add(here, "format", "the place in the container must be an absolute path")
		case path.Clean(m.Target) == "/":
			bad.Add(here, "format", "a volume cannot take the place of the whole container")
		case seen[path.Clean(m.Target)]:
			bad.Add(here, "conflict", path.Clean(m.Target)+" is mounted twice")
		}
		seen[path.Clean(m.Target)] = true
	}
}

// ParsePort reads "8080:80/tcp", "80/tcp", "80" and ranges of the same size
// ("8000-8002:9000-9002/udp").
func ParsePort(s string) ([]Port, error) {
	fail := fmt.Errorf("must be a port as in 80, 80/tcp or 8080:80/tcp")
	numbers, proto, has := strings.Cut(s, "/")
	if !has {
		proto = "tcp"
	}
	proto = strings.ToLower(proto)
	if proto != "tcp" && proto != "udp" && proto != "sctp" {
		return nil, fmt.Errorf("the protocol must be tcp, udp or sctp")
	}
	public, target, two := strings.Cut(numbers, ":")
	if !two {
		target = public
	}
	p0, p1, ok1 := parseRange(public)
	t0, t1, ok2 := parseRange(target)
	switch {
	case !ok1 || !ok2:
		return nil, fail
	case p1-p0 != t1-t0:
		return nil, fmt.Errorf("the two ranges must have the same size")
	case p1-p0 >= maxPorts:
		return nil, fmt.Errorf("at most %d ports", maxPorts)
	}
	out := make([]Port, 0, p1-p0+1)
	for i := 0; i <= p1-p0; i++ {
		out = append(out, Port{Public: uint16(p0 + i), Target: uint16(t0 + i), Protocol: proto})
	}
	return out, nil
}

func parseRange(s string) (from, to int, ok bool) {
	a, b, two := strings.Cut(s, "-")
	if !two {
		b = a
	}
	x, err1 := strconv.ParseUint(a, 10, 16)
	y, err2 := strconv.ParseUint(b, 10, 16)
	return int(x), int(y), err1 == nil && err2 == nil && x > 0 && y >= x && a[0] != '+' && b[0] != '+'
}

// ParseMount reads "volume:/path" and "/home/p-xxxxxx/dir:/path", each with
// ":ro" or ":rw" at the end or without.
func ParseMount(s string) (Mount, error) {
	parts := strings.Split(s, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" {
		return Mount{}, fmt.Errorf("must be a volume and a place in the container, as in data:/var/lib/data")
	}
	m := Mount{Target: parts[1]}
	if len(parts) == 3 {
		switch parts[2] {
		case "ro":
			m.ReadOnly = true
		case "rw":
		default:
			return Mount{}, fmt.Errorf("the third part must be ro or rw")
		}
	}
	if !path.IsAbs(m.Target) {
		return Mount{}, fmt.Errorf("the place in the container must be an absolute path")
	}
	if c := parts[0][0]; c != '/' && c != '.' && c != '~' {
		m.Volume = parts[0]
		if !volumeKey.MatchString(m.Volume) {
			return Mount{}, fmt.Errorf("%q is not the name of a volume", m.Volume)
		}
		return m, nil
	}
	rest, ok := strings.CutPrefix(path.Clean(parts[0]), "/home/")
	if !ok || rest == "" {
		return Mount{}, fmt.Errorf("paths of the host cannot be mounted: name a volume, or a directory below /home/p-xxxxxx of the project")
	}
	m.Home, m.Path, _ = strings.Cut(rest, "/")
	return m, nil
}

// cpus reads the limit; 0 is none. The kernel gives no smaller share than a
// hundredth.
func (l Limits) cpus() (float64, error) {
	if l.CPUs == "" {
		return 0, nil
	}
	f, err := strconv.ParseFloat(l.CPUs, 64)
	if err != nil || f < minCPUs || math.IsNaN(f) || f > 1024 || strings.ContainsAny(l.CPUs, "xX_+eEpP") {
		return 0, fmt.Errorf("must be a number of CPUs from 0.01 on, as in 0.5")
	}
	return f, nil
}

// memory reads the limit in bytes; 0 is none.
func (l Limits) memory() (int64, error) {
	if l.Memory == "" {
		return 0, nil
	}
	fail := fmt.Errorf("must be a size with one of the units b, k, kb, m, mb, g, gb, as in 512mb")
	i := strings.IndexFunc(l.Memory, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	unit := ""
	num := l.Memory
	if i >= 0 {
		num, unit = l.Memory[:i], l.Memory[i:]
	}
	factor := map[string]float64{"": 1, "b": 1, "k": 1 << 10, "kb": 1 << 10, "m": 1 << 20, "mb": 1 << 20, "g": 1 << 30, "gb": 1 << 30}[strings.ToLower(unit)]
	f, err := strconv.ParseFloat(num, 64)
	if err != nil || factor == 0 || f <= 0 {
		return 0, fail
	}
	if f *= factor; f < minMemory {
		return 0, fmt.Errorf("must be at least 6mb")
	} else if f > 1<<50 {
		return 0, fmt.Errorf("is more than any host has")
	}
	return int64(f), nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
