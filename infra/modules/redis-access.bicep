// Who may log in to a Redis. There is one policy, default, which grants every command: an ACL cannot be made narrower here.
param redisName string
param appPrincipalId string
param userPrincipalId string

resource cluster 'Microsoft.Cache/redisEnterprise@2025-07-01' existing = {
  name: redisName
}

resource database 'Microsoft.Cache/redisEnterprise/databases@2025-07-01' existing = {
  parent: cluster
  name: 'default'
}

resource app 'Microsoft.Cache/redisEnterprise/databases/accessPolicyAssignments@2025-07-01' = {
  parent: database
  name: 'app${uniqueString(appPrincipalId)}'
  properties: {
    accessPolicyName: 'default'
    user: {
      objectId: appPrincipalId
    }
  }
}

resource user 'Microsoft.Cache/redisEnterprise/databases/accessPolicyAssignments@2025-07-01' = if (!empty(userPrincipalId)) {
  parent: database
  name: 'user${uniqueString(userPrincipalId)}'
  // A database takes one change at a time.
  dependsOn: [app]
  properties: {
    accessPolicyName: 'default'
    user: {
      objectId: userPrincipalId
    }
  }
}

output address string = '${cluster.properties.hostName}:10000'
