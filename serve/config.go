package serve

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"

	"slipway/access"
	"slipway/registry"
)

// Config is all that serve can be told. Each setting is a flag, an environment
// variable (SLIPWAY_ and the flag's name in capitals) and a key of the --config
// file, in this order of strength.
type Config struct {
	File string // where the other settings may stand

	DataDir       string   // all state
	Listen        string   // API, registry, git
	TLSCert       string   // certificate of Listen
	TLSKey        string   // its key
	IngressHTTP   string   // hosted services; "" is off
	IngressHTTPS  string   // the same with TLS
	PublicURL     string   // how others reach Listen
	Domain        string   // default hostnames are below it
	PublicIP      string   // where DNS records of hosted names should lead
	Engine        string   // local
	Database      string   // "": SQLite in DataDir
	Mirrors       []string // HOST=URL
	RegistryCAs   []string // files with certificates of private authorities
	Vendors       []string // NAME=URL: where vendors' services are asked
	MasterKeyFile string   // "": DataDir/master.key

	CacheMax        string        // bytes of build cache, with a unit, or a share ("20%")
	BuildsParallel  int           // 0: one per two cores
	ActionsParallel int           // 0: four per core
	PushMax         string        // bytes that one push, or fetch from outside, may bring
	LogMax          string        // bytes of log that an action keeps
	LogKeep         time.Duration // age of logs of services
	FreeMin         int           // percent of the disk below which new work is refused
	PrivateSources  bool          // outside git URLs and webhooks may lead to private addresses
	TrustedProxies  []string      // prefixes whose X-Forwarded-For is believed
	RateLimit       int           // requests to the APIs that one token may make in a minute
	LogFormat       string        // text or json
	LogLevel        string        // debug, info, warn, error
	Demo            bool          // run the demo once ready

	// Sources says where each setting came from: default, file, environment or flag.
	Sources map[string]string

	proxies []netip.Prefix // TrustedProxies, read
}

// later are settings of the surface that this version does not have yet. They
// are refused by name rather than ignored.
var later = []string{
	"acme-email", "acme-url", "oidc-issuer", "oidc-client-id", "oidc-client-secret", "smtp-url", "otlp-endpoint",
}

// Flags adds the settings to a flag set.
func (c *Config) Flags(f *pflag.FlagSet) {
	f.StringVar(&c.File, "config", "", "YAML `file` with any of these settings")
	f.StringVar(&c.DataDir, "data-dir", "/var/lib/slipway", "`directory` of all state; two servers never share one")
	f.StringVar(&c.Listen, "listen", "127.0.0.1:8080", "`host:port` of API, registry and git")
	f.StringVar(&c.TLSCert, "tls-cert", "", "certificate `file` for --listen")
	f.StringVar(&c.TLSKey, "tls-key", "", "key `file` for --listen")
	f.StringVar(&c.IngressHTTP, "ingress-http", ":80", "`host:port` of hosted services; empty is off")
	f.StringVar(&c.IngressHTTPS, "ingress-https", ":443", "`host:port` of hosted services with TLS; empty is off")
	f.StringVar(&c.PublicURL, "public-url", "", "how others reach --listen (default http:// and --listen)")
	f.StringVar(&c.Domain, "domain", "localhost", "default hostnames are p-xxxxxx.`domain`")
	f.StringVar(&c.PublicIP, "public-ip", "", "`address` of hosted services (default: of the outgoing interface; 127.0.0.1 for localhost)")
	f.StringVar(&c.Engine, "engine", "local", "where containers run: local")
	f.StringVar(&c.Database, "database", "", "`URL` of the store (default: SQLite in the data directory)")
	f.StringArrayVar(&c.Mirrors, "registry-mirror", nil, "`HOST=URL` to ask instead of HOST; repeatable")
	f.StringArrayVar(&c.RegistryCAs, "registry-ca", nil, "PEM `file` of an authority that registries may be signed by; repeatable")
	f.StringArrayVar(&c.Vendors, "vendor-endpoint", nil, "`NAME=URL` of a vendor's service that is elsewhere: "+strings.Join(registry.Endpoints(), ", ")+"; repeatable")
	f.StringVar(&c.MasterKeyFile, "master-key-file", "", "`file` of the key that encrypts secrets (default: master.key in the data directory)")
	f.StringVar(&c.CacheMax, "cache-max", "20%", "build cache at most: a `size` or a share of the disk")
	f.IntVar(&c.BuildsParallel, "builds-parallel", 0, "builds at the same time (default: one per two cores)")
	f.IntVar(&c.ActionsParallel, "actions-parallel", 0, "run actions at the same time (default: four per core)")
	f.StringVar(&c.PushMax, "push-max", "2GiB", "one git push, or fetch from an outside repository, may bring this `size`")
	f.StringVar(&c.LogMax, "log-max", "256MiB", "the log of an action keeps this `size`")
	f.DurationVar(&c.LogKeep, "log-keep", 7*24*time.Hour, "logs of services are kept this long")
	f.IntVar(&c.FreeMin, "free-min", 5, "`percent` of free disk below which new work is refused")
	f.BoolVar(&c.PrivateSources, "private-sources", true, "outside git URLs and webhooks may lead to private addresses")
	f.StringArrayVar(&c.TrustedProxies, "trusted-proxies", nil, "`prefix` of proxies whose X-Forwarded-For is believed; repeatable")
	f.IntVar(&c.RateLimit, "rate-limit", 1_000_000, "`requests` to the APIs that one token may make in a minute; git and registry are not counted")
	f.StringVar(&c.LogFormat, "log-format", "text", "text or json")
	f.StringVar(&c.LogLevel, "log-level", "info", "debug, info, warn or error")
	f.BoolVar(&c.Demo, "demo", false, "run the demo against this server once it is ready")
	for _, n := range later {
		f.String(n, "", "")
		_ = f.MarkHidden(n)
	}
}

// Wrong is a wrong setting; the program ends with 2.
type Wrong struct{ msg string }

func (w *Wrong) Error() string { return w.msg }

func wrong(format string, a ...any) error { return &Wrong{fmt.Sprintf(format, a...)} }

// Complete fills what no flag said from the environment and the file, and
// checks everything. All that is wrong is a *Wrong.
func (c *Config) Complete(f *pflag.FlagSet, environ []string) error {
	k := koanf.New("\x00") // keys have no levels
	environment := koanf.New("\x00")
	key := func(name, value string) (string, any) {
		return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, "SLIPWAY_")), "_", "-"), value
	}
	if err := environment.Load(env.Provider("\x00", env.Opt{Prefix: "SLIPWAY_", TransformFunc: key, EnvironFunc: func() []string { return environ }}), nil); err != nil {
		return err
	}
	if c.File == "" {
		c.File = environment.String("config")
	}
	if c.File != "" {
		if err := k.Load(file.Provider(c.File), yaml.Parser()); err != nil {
			return wrong("--config %s: %v", c.File, err)
		}
		for _, n := range k.Keys() {
			if f.Lookup(n) == nil || n == "config" {
				return wrong("--config %s: there is no setting %q", c.File, n)
			}
		}
	}
	c.Sources = map[string]string{}
	var errs []error
	f.VisitAll(func(fl *pflag.Flag) {
		c.Sources[fl.Name] = "default"
		if fl.Changed {
			c.Sources[fl.Name] = "flag"
			return
		}
		for _, from := range []struct {
			k    *koanf.Koanf
			name string
		}{{environment, "environment"}, {k, "file"}} {
			if !from.k.Exists(fl.Name) {
				continue
			}
			c.Sources[fl.Name] = from.name
			if err := set(fl, from.k, from.name == "environment"); err != nil {
				errs = append(errs, wrong("%s (from the %s): %v", fl.Name, from.name, err))
			}
			return
		}
	})
	for _, n := range later {
		if fl := f.Lookup(n); fl != nil && fl.Value.String() != "" {
			errs = append(errs, wrong("--%s: this version does not have it yet", n))
		}
	}
	if len(errs) > 0 {
		return errs[0]
	}
	return c.check()
}

func set(fl *pflag.Flag, k *koanf.Koanf, fromEnv bool) error {
	list, isList := fl.Value.(pflag.SliceValue)
	if !isList {
		return fl.Value.Set(k.String(fl.Name))
	}
	if fromEnv {
		return list.Replace(strings.FieldsFunc(k.String(fl.Name), func(r rune) bool { return r == ',' || r == ' ' }))
	}
	if s, ok := k.Get(fl.Name).(string); ok {
		return list.Replace([]string{s})
	}
	return list.Replace(k.Strings(fl.Name))
}

// check looks at every value and fills the defaults that depend on others.
func (c *Config) check() error {
	var err error
	if c.DataDir, err = filepath.Abs(c.DataDir); err != nil || c.DataDir == "/" {
		return wrong("--data-dir: %q is no place for data", c.DataDir)
	}
	for name, addr := range map[string]string{"listen": c.Listen, "ingress-http": c.IngressHTTP, "ingress-https": c.IngressHTTPS} {
		if addr == "" && name != "listen" {
			continue
		}
		if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
			return wrong("--%s: %q is not host:port", name, addr)
		}
		if _, err := net.ResolveTCPAddr("tcp", addr); err != nil {
			return wrong("--%s: %v", name, err)
		}
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return wrong("--tls-cert and --tls-key go together")
	}
	if c.PublicURL == "" {
		c.PublicURL = "http://" + c.Listen
		if c.TLSCert != "" {
			c.PublicURL = "https://" + c.Listen
		}
	}
	u, err := url.Parse(c.PublicURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || (u.Path != "" && u.Path != "/") {
		return wrong("--public-url: %q is not http(s)://host[:port]", c.PublicURL)
	}
	c.PublicURL = u.Scheme + "://" + u.Host
	if c.Domain = strings.ToLower(strings.Trim(c.Domain, ".")); c.Domain == "" || strings.ContainsAny(c.Domain, "/: ") {
		return wrong("--domain: %q is no domain", c.Domain)
	}
	if c.PublicIP == "" {
		c.PublicIP = outgoing(c.Domain)
	}
	if _, err := netip.ParseAddr(c.PublicIP); err != nil {
		return wrong("--public-ip: %q is no address", c.PublicIP)
	}
	if c.Engine != "local" {
		return wrong("--engine %s: this version only has local", c.Engine)
	}
	if c.Database != "" {
		return wrong("--database: this version only has SQLite in the data directory")
	}
	if c.MasterKeyFile == "" {
		c.MasterKeyFile = filepath.Join(c.DataDir, "master.key")
	}
	return c.checkMore()
}

func (c *Config) checkMore() error {
	for _, m := range c.Mirrors {
		host, to, ok := strings.Cut(m, "=")
		u, err := url.Parse(to)
		if !ok || host == "" || err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return wrong("--registry-mirror: %q is not HOST=http(s)://...", m)
		}
	}
	for _, f := range c.RegistryCAs {
		if _, err := os.Stat(f); err != nil {
			return wrong("--registry-ca: %v", err)
		}
	}
	if _, err := registry.Elsewhere(c.Vendors); err != nil {
		return wrong("--vendor-endpoint: %v", err)
	}
	c.proxies = nil
	for _, s := range c.TrustedProxies {
		p, err := access.ParsePrefix(s)
		if err != nil {
			return wrong("--trusted-proxies: %q is no address or prefix", s)
		}
		c.proxies = append(c.proxies, p)
	}
	for name, v := range map[string]string{"push-max": c.PushMax, "log-max": c.LogMax, "cache-max": c.CacheMax} {
		if _, err := size(v, 100); err != nil {
			return wrong("--%s: %v", name, err)
		}
	}
	if c.BuildsParallel < 0 || c.ActionsParallel < 0 {
		return wrong("--builds-parallel and --actions-parallel are not negative")
	}
	if c.FreeMin < 0 || c.FreeMin > 90 {
		return wrong("--free-min: %d is not between 0 and 90", c.FreeMin)
	}
	if c.RateLimit < 1 {
		return wrong("--rate-limit: %d is less than one request", c.RateLimit)
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		return wrong("--log-format: %q is neither text nor json", c.LogFormat)
	}
	if _, ok := levels[c.LogLevel]; !ok {
		return wrong("--log-level: %q is none of debug, info, warn, error", c.LogLevel)
	}
	return nil
}

// size reads "256MiB", "2GB", "1000" or "20%", a share of the whole.
func size(s string, whole int64) (int64, error) {
	units := []struct {
		suffix string
		n      int64
	}{
		{"KiB", 1 << 10},
		{"MiB", 1 << 20},
		{"GiB", 1 << 30},
		{"TiB", 1 << 40},
		{"KB", 1e3},
		{"MB", 1e6},
		{"GB", 1e9},
		{"TB", 1e12},
		{"B", 1},
		{"%", -1},
		{"", 1},
	}
	for _, u := range units {
		num, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		var v float64
		var rest string
		if n, _ := fmt.Sscanf(strings.TrimSpace(num)+" ", "%g%s", &v, &rest); n != 1 || v <= 0 || v > 1e15 {
			break
		}
		if u.n < 0 {
			if v > 100 {
				break
			}
			return int64(v / 100 * float64(whole)), nil
		}
		return int64(v * float64(u.n)), nil
	}
	return 0, fmt.Errorf("%q is no size such as 500MiB", s)
}

// outgoing is the address that others would see this host under.
func outgoing(domain string) string {
	if domain == "localhost" || strings.HasSuffix(domain, ".localhost") {
		return "127.0.0.1"
	}
	// A UDP socket picks its route without sending anything.
	c, err := net.Dial("udp4", "192.0.2.1:9")
	if err != nil {
		return "127.0.0.1"
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).IP.String()
}

// Table gives every setting with its value and where it came from, by name.
func (c *Config) Table(f *pflag.FlagSet) [][3]string {
	var t [][3]string
	f.VisitAll(func(fl *pflag.Flag) {
		if from, ok := c.Sources[fl.Name]; ok && !fl.Hidden {
			t = append(t, [3]string{fl.Name, fl.Value.String(), from})
		}
	})
	sort.Slice(t, func(i, j int) bool { return t[i][0] < t[j][0] })
	return t
}
