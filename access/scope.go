package access

import (
	"maps"
	"slices"
)

// Scope is a right that a token carries. The words are those of the richest
// dialect; a wider scope includes the narrower ones.
type Scope string

// Scopes.
const (
	Workspace         Scope = "WORKSPACE"         // read workspaces; make and change projects, members, groups and permission sets
	WorkspacesManage  Scope = "WORKSPACES_MANAGE" // make and change workspaces; includes read
	ProjectRead       Scope = "PROJECT_READ"      // read projects and who is in them
	ProjectWrite      Scope = "PROJECT_WRITE"     // make and change them; includes read
	ProjectManage     Scope = "PROJECT_MANAGE"    // ours; includes Workspace
	ProjectDelete     Scope = "PROJECT_DELETE"
	RepositoryRead    Scope = "REPOSITORY_READ"
	RepositoryWrite   Scope = "REPOSITORY_WRITE" // includes read
	ExecutionInfo     Scope = "EXECUTION_INFO"
	ExecutionRun      Scope = "EXECUTION_RUN"    // includes info
	ExecutionManage   Scope = "EXECUTION_MANAGE" // includes run
	StackRead         Scope = "STACK_READ"       // ours: stacks, services, volumes, ingresses, logs
	StackWrite        Scope = "STACK_WRITE"      // ours; includes read
	ImageRead         Scope = "IMAGE_READ"       // ours: pull
	ImageWrite        Scope = "IMAGE_WRITE"      // ours: push, load, delete; includes read
	VariableInfo      Scope = "VARIABLE_INFO"
	VariableAdd       Scope = "VARIABLE_ADD"    // includes info
	VariableManage    Scope = "VARIABLE_MANAGE" // includes add
	IntegrationInfo   Scope = "INTEGRATION_INFO"
	IntegrationAdd    Scope = "INTEGRATION_ADD"    // includes info
	IntegrationManage Scope = "INTEGRATION_MANAGE" // includes add
	TokenInfo         Scope = "TOKEN_INFO"
	TokenManage       Scope = "TOKEN_MANAGE" // includes info
	UserInfo          Scope = "USER_INFO"
	UserKey           Scope = "USER_KEY"
	UserEmail         Scope = "USER_EMAIL"
	ManageEmails      Scope = "MANAGE_EMAILS"
	MemberRead        Scope = "MEMBER_READ"
	MemberManage      Scope = "MEMBER_MANAGE" // includes read
	GroupRead         Scope = "GROUP_READ"
	GroupManage       Scope = "GROUP_MANAGE" // includes read
	PermissionRead    Scope = "PERMISSION_READ"
	PermissionManage  Scope = "PERMISSION_MANAGE" // includes read
	WebhookInfo       Scope = "WEBHOOK_INFO"
	WebhookAdd        Scope = "WEBHOOK_ADD"    // includes info
	WebhookManage     Scope = "WEBHOOK_MANAGE" // includes add
)

// scopes says what each known scope carries directly beside itself. Those with
// nothing and without a constant are words of Buddy's for things that other
// issues bring, or never: a token keeps them and gives them back.
var scopes = map[Scope][]Scope{
	Workspace:         {ProjectWrite, MemberManage, GroupManage, PermissionManage},
	WorkspacesManage:  {Workspace},
	ProjectRead:       nil,
	ProjectWrite:      {ProjectRead},
	ProjectManage:     {Workspace},
	ProjectDelete:     nil,
	RepositoryRead:    nil,
	RepositoryWrite:   {RepositoryRead},
	ExecutionInfo:     nil,
	ExecutionRun:      {ExecutionInfo},
	ExecutionManage:   {ExecutionRun},
	StackRead:         nil,
	StackWrite:        {StackRead},
	ImageRead:         nil,
	ImageWrite:        {ImageRead},
	VariableInfo:      nil,
	VariableAdd:       {VariableInfo},
	VariableManage:    {VariableAdd},
	IntegrationInfo:   nil,
	IntegrationAdd:    {IntegrationInfo},
	IntegrationManage: {IntegrationAdd},
	TokenInfo:         nil,
	TokenManage:       {TokenInfo},
	UserInfo:          nil,
	UserKey:           nil,
	UserEmail:         nil,
	ManageEmails:      nil,
	MemberRead:        nil,
	MemberManage:      {MemberRead},
	GroupRead:         nil,
	GroupManage:       {GroupRead},
	PermissionRead:    nil,
	PermissionManage:  {PermissionRead},
	WebhookInfo:       nil,
	WebhookAdd:        {WebhookInfo},
	WebhookManage:     {WebhookAdd},

	"MEMBER_EMAIL":     nil,
	"ENVIRONMENT_INFO": nil, "ENVIRONMENT_ADD": {"ENVIRONMENT_INFO"}, "ENVIRONMENT_MANAGE": {"ENVIRONMENT_ADD"},
	"TARGET_INFO": nil, "TARGET_ADD": {"TARGET_INFO"}, "TARGET_MANAGE": {"TARGET_ADD"},
	"ZONE_READ": nil, "ZONE_WRITE": {"ZONE_READ"}, "ZONE_MANAGE": {"ZONE_WRITE"},
}

// alike are the words of the newer family for the same things.
var alike = map[Scope]Scope{
	"PIPELINE_READ":     ExecutionInfo,
	"PIPELINE_INFO":     ExecutionInfo,
	"PIPELINE_RUN":      ExecutionRun,
	"PIPELINE_WRITE":    ExecutionManage,
	"PIPELINE_MANAGE":   ExecutionManage,
	"EXECUTION_READ":    ExecutionInfo,
	"VARIABLE_READ":     VariableInfo,
	"VARIABLE_WRITE":    VariableAdd,
	"INTEGRATION_READ":  IntegrationInfo,
	"INTEGRATION_WRITE": IntegrationAdd,
	"WEBHOOK_READ":      WebhookInfo,
	"WEBHOOK_WRITE":     WebhookAdd,
	"TOKEN_READ":        TokenInfo,
	"TOKEN_WRITE":       TokenManage,
	"USER_READ":         UserInfo,
	"MEMBER_WRITE":      MemberManage,
	"GROUP_WRITE":       GroupManage,
	"PERMISSION_WRITE":  PermissionManage,
}

// Scopes gives every scope by its first name, sorted.
func Scopes() []Scope { return slices.Sorted(maps.Keys(scopes)) }

// KnownScope tells whether a word is a scope, of either family.
func KnownScope(s Scope) bool {
	_, ok := scopes[canonical(s)]
	return ok
}

func canonical(s Scope) Scope {
	if c, ok := alike[s]; ok {
		return c
	}
	return s
}

// Includes tells whether who carries s carries want. What is unknown includes
// nothing, not even itself.
func (s Scope) Includes(want Scope) bool {
	s, want = canonical(s), canonical(want)
	below, ok := scopes[s]
	if !ok {
		return false
	}
	return s == want || slices.ContainsFunc(below, func(b Scope) bool { return b.Includes(want) })
}

func carries(have []Scope, want Scope) bool {
	return slices.ContainsFunc(have, func(s Scope) bool { return s.Includes(want) })
}
