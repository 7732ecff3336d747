package secret

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"slipway/access"
	"slipway/project"
)

// Types of integrations that a room acts on.
const (
	DockerHub        = "DOCKER_HUB"
	Amazon           = "AMAZON"
	Google           = "GOOGLE_SERVICE_ACCOUNT"
	GitHub           = "GIT_HUB"
	GitHubEnterprise = "GIT_HUB_ENTERPRISE"
	GitLab           = "GIT_LAB"
	DigitalOcean     = "DIGITAL_OCEAN"
)

// IntegrationTypes lists all types: those above, and those that are kept for
// the clients that ask for them.
func IntegrationTypes() []string {
	return []string{
		DockerHub, Amazon, Google, GitHub, GitHubEnterprise, GitLab, DigitalOcean,
		"AZURE_CLOUD", "CLOUDFLARE", "DATADOG", "DO_SPACES", "FIREBASE", "GHOST_INSPECTOR", "HONEYBADGER", "LOGGLY", "NEW_RELIC", "PUSHOVER",
		"RACKSPACE", "ROLLBAR", "SENTRY", "SENTRY_ENTERPRISE", "SHOPIFY", "STACK_HAWK", "UPCLOUD", "VULTR",
	}
}

// Ways in which an integration says who it is.
const (
	AuthDefault = "DEFAULT" // the keys of its type
	AuthToken   = "TOKEN"
	AuthApp     = "TOKEN_APP_EXTENSION"
	AuthTrusted = "TRUSTED"
	AuthOIDC    = "OIDC"
)

// Levels of what somebody may do with an integration.
const (
	Manage  = "MANAGE"
	UseOnly = "USE_ONLY"
	Denied  = "DENIED" // it does not exist for them
)

// Integration is what a workspace, or a project of it, may use of somebody
// else's: credentials with a name.
type Integration struct {
	ID         string // 24 hex digits
	Workspace  string // UUID
	Project    project.ID
	Identifier string // unique in the workspace; made from the name
	Name       string
	Type       string
	Auth       string // "": AuthDefault

	AllPipelines bool
	Pipelines    []int64 // those that may use it, if not all may
	Permissions  IntegrationPermissions

	ServerURL   string // of a GitHubEnterprise
	Credentials Credentials
	Created     time.Time
	Updated     time.Time
}

// Credentials are the secret part of an integration; which of them count is a
// matter of its type. The front door never gives them.
type Credentials struct {
	Username, Password   string
	Token, PartnerToken  string
	AccessKey, SecretKey string // of Amazon
	Roles                []Role // of Amazon, taken one with the rights of the one before
	APIKey               string // of Google: the service account's JSON
	Config               string
	GoogleProject        string
	Audience             string
	AppID, TenantID      string // of Azure
	Email, Shop          string
}

// Role is a role of Amazon's that is taken.
type Role struct {
	ARN        string
	ExternalID string
	Seconds    int64 // 0: Amazon's default
}

// IntegrationPermissions say who may do what with an integration; "" is Manage
// for admins, UseOnly for others.
type IntegrationPermissions struct {
	Admins, Others string
	Users, Groups  []IntegrationGrant
}

// IntegrationGrant is the level of one user or group.
type IntegrationGrant struct {
	ID    int64
	Level string
}

// level is what an actor may do: what is said of the user itself, or else of
// those who run the workspace, or the widest of what is said of its groups, or
// what is said of others.
func (i Integration) level(by access.Actor) string {
	if !by.Sees(i.Workspace) || i.Project != "" && !by.SeesProject(i.Workspace, string(i.Project)) {
		return Denied
	}
	p := i.Permissions
	for _, g := range p.Users {
		if g.ID == by.User.ID {
			return g.Level
		}
	}
	if by.Runs(i.Workspace) {
		return p.Admins
	}
	said := map[string]bool{}
	for _, g := range p.Groups {
		if slices.Contains(by.Groups(), g.ID) {
			said[g.Level] = true
		}
	}
	for _, l := range []string{Manage, UseOnly, Denied} {
		if said[l] {
			return l
		}
	}
	return p.Others
}

// deny tells whether there may be somebody who is denied.
func (p IntegrationPermissions) deny() bool {
	denied := func(g IntegrationGrant) bool { return g.Level == Denied }
	return p.Admins == Denied || p.Others == Denied || slices.ContainsFunc(p.Users, denied) || slices.ContainsFunc(p.Groups, denied)
}

// usable tells whether a pipeline may use the integration.
func (i Integration) usable(in project.ID, pipeline int64) bool {
	return (i.Project == "" || i.Project == in) && (i.AllPipelines || slices.Contains(i.Pipelines, pipeline))
}

// whole fills in what was left out.
func (i Integration) whole() Integration {
	for at, otherwise := range map[*string]string{&i.Auth: AuthDefault, &i.Permissions.Admins: Manage, &i.Permissions.Others: UseOnly} {
		if *at == "" {
			*at = otherwise
		}
	}
	return i
}

// secrets are the credentials behind their names on the wire.
func (c *Credentials) secrets() map[string]*string {
	return map[string]*string{
		"username": &c.Username, "password": &c.Password, "token": &c.Token, "partner_token": &c.PartnerToken, "access_key": &c.AccessKey,
		"secret_key": &c.SecretKey, "api_key": &c.APIKey, "config": &c.Config, "google_project": &c.GoogleProject, "audience": &c.Audience,
		"app_id": &c.AppID, "tenant_id": &c.TenantID, "email": &c.Email, "shop": &c.Shop,
	}
}

var identifiers = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)

// needed are the credentials without which an integration of a type is none.
func (i Integration) needed() []string {
	if i.Auth == AuthOIDC || i.Auth == AuthTrusted {
		return nil
	}
	switch i.Type {
	case DockerHub:
		return []string{"username", "password"}
	case Amazon:
		return []string{"access_key", "secret_key"}
	case Google:
		return []string{"api_key"}
	case GitHub, GitHubEnterprise, GitLab, DigitalOcean:
		return []string{"token"}
	}
	return nil
}

// Validate notes all that is wrong, paths in the words of the dialect that has
// integrations.
func (i Integration) Validate(inv *project.Invalid) {
	i = i.whole()
	var bad project.Invalid
	switch {
	case strings.TrimSpace(i.Name) == "":
		bad.Add("name", "required", "must not be empty")
	default:
		bad.Text("name", i.Name, 255)
	}
	switch {
	case i.Type == "":
		bad.Add("type", "required", "must not be empty")
	case !slices.Contains(IntegrationTypes(), i.Type):
		bad.Add("type", "enum", "must be one of "+strings.Join(IntegrationTypes(), ", "))
	}
	oneOf(&bad, "auth_type", i.Auth, AuthDefault, AuthToken, AuthApp, AuthTrusted, AuthOIDC)
	if i.Identifier != "" && (len(i.Identifier) > 255 || !identifiers.MatchString(i.Identifier)) {
		bad.Add("identifier", "format", "must be at most 255 letters, digits, dots, dashes and _, with a letter or digit at both ends")
	}
	i.Permissions.validate(&bad)
	for n, id := range i.Pipelines {
		if id <= 0 {
			bad.Add("allowed_pipelines."+strconv.Itoa(n)+".id", "required", "must be the number of a pipeline")
		}
	}
	if u, err := url.Parse(i.ServerURL); i.Type == GitHubEnterprise && i.ServerURL == "" {
		bad.Add("server_url", "required", "must not be empty with type "+GitHubEnterprise)
	} else if i.ServerURL != "" && (err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" || len(i.ServerURL) > 4096) {
		bad.Add("server_url", "format", "must be an http or https URL, without a user")
	}
	all := i.Credentials.secrets()
	for name, text := range all {
		longest := maxValue
		if name == "email" || name == "shop" || name == "username" {
			longest = 255
		}
		switch {
		case len(*text) > longest:
			bad.Add(name, "maximum", fmt.Sprintf("must be at most %d bytes", longest))
		case !utf8.ValidString(*text) || strings.ContainsRune(*text, 0):
			bad.Add(name, "format", "must be text")
		}
	}
	for _, name := range i.needed() {
		if *all[name] == "" {
			bad.Add(name, "required", "must not be empty with type "+i.Type)
		}
	}
	for n, r := range i.Credentials.Roles {
		at := "role_assumptions." + strconv.Itoa(n)
		switch {
		case r.ARN == "":
			bad.Add(at+".arn", "required", "must not be empty")
		case r.Seconds < 0:
			bad.Add(at+".duration", "minimum", "must not be negative")
		}
		bad.Text(at+".arn", r.ARN, 4096)
		bad.Text(at+".external_id", r.ExternalID, 4096)
	}
	slices.SortStableFunc(bad.Fields, func(a, b project.Field) int { return strings.Compare(a.Path, b.Path) })
	inv.Fields = append(inv.Fields, bad.Fields...)
}

func (p IntegrationPermissions) validate(bad *project.Invalid) {
	oneOf(bad, "permissions.admins", p.Admins, Manage, UseOnly, Denied)
	oneOf(bad, "permissions.others", p.Others, Manage, UseOnly, Denied)
	for what, l := range map[string][]IntegrationGrant{"user": p.Users, "group": p.Groups} {
		for n, g := range l {
			at := "permissions." + what + "s." + strconv.Itoa(n)
			if g.ID <= 0 {
				bad.Add(at+".id", "required", "must be the number of a "+what)
			}
			oneOf(bad, at+".access_level", g.Level, Manage, UseOnly, Denied)
		}
	}
}

func oneOf(bad *project.Invalid, path, value string, words ...string) {
	if !slices.Contains(words, value) {
		bad.Add(path, "enum", "must be one of "+strings.Join(words, ", "))
	}
}

// hidden is how an integration leaves the front door.
func (i Integration) hidden() Integration {
	i.Credentials = Credentials{}
	return i
}

// keep puts the credentials that are there in the place of those that are given
// as Encrypted, and notes those that are not there.
func (c *Credentials) keep(old Credentials, bad *project.Invalid) {
	had := old.secrets()
	for name, text := range c.secrets() {
		if *text == Encrypted {
			if *text = *had[name]; *text == "" {
				bad.Add(name, "required", nothingKept.Fields[0].Message)
			}
		}
	}
}
