// The janitor as a function app on Flex Consumption, with a Redis that it logs in to by its identity: no key anywhere.
// Compile: az bicep build --file infra/main.bicep. Look before it happens: azd provision --preview.
targetScope = 'subscription'

@minLength(1)
@maxLength(40)
@description('Name of the azd environment: part of every resource group and resource name.')
param environmentName string

@minLength(1)
@description('Region. It has to offer Flex Consumption and Azure Managed Redis.')
param location string

@description('Object id of who deploys. It may log in to Redis, so that doctor runs from a laptop. Empty: nobody but the app may.')
param principalId string = ''

@description('Private endpoints for storage and Redis, and no public access to either.')
param vnetEnabled bool = false

@description('Resource id of an Azure Managed Redis to use. Empty: one is made.')
param existingRedisId string = ''

@description('Size of the Redis that is made.')
param redisSku string = 'Balanced_B0'

@description('Who is written to when an alert fires. Empty: nobody.')
param alertEmail string = ''

@description('A new deployment has no stream, so every sweep fails: turn alerts on when doctor says ok.')
param alertsEnabled bool = false

@description('STREAM_NAME')
param streamName string = 'tweets_stream'

@description('STREAM_CONSUMER_GROUP_NAME')
param groupName string = 'redisearch_app_group'

@description('MONITORING_CONSUMER_NAME')
param consumerName string = 'monitoring_app'

@description('MIN_IDLE_TIME_SEC')
param minIdleTimeSec string = '60'

var tags = { 'azd-env-name': environmentName }
var token = toLower(uniqueString(subscription().id, environmentName, location))
// Its subscription, group and name are at 2, 4 and 8; the rest makes those places be there also without one.
var existingRedis = concat(split(existingRedisId, '/'), ['', '', '', '', '', '', '', ''])

resource group 'Microsoft.Resources/resourceGroups@2024-03-01' = {
  name: 'rg-${environmentName}'
  location: location
  tags: tags
}

module identity 'modules/identity.bicep' = {
  name: 'identity'
  scope: group
  params: {
    name: 'id-${token}'
    location: location
    tags: tags
  }
}

module network 'modules/network.bicep' = if (vnetEnabled) {
  name: 'network'
  scope: group
  params: {
    name: 'vnet-${token}'
    location: location
    tags: tags
  }
}

module storage 'modules/storage.bicep' = {
  name: 'storage'
  scope: group
  params: {
    name: 'st${token}'
    location: location
    tags: tags
    principalId: identity.outputs.principalId
    vnetEnabled: vnetEnabled
    endpointSubnetId: vnetEnabled ? network!.outputs.endpointSubnetId : ''
    dnsZoneId: vnetEnabled ? network!.outputs.blobZoneId : ''
  }
}

module monitoring 'modules/monitoring.bicep' = {
  name: 'monitoring'
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    principalId: identity.outputs.principalId
  }
}

module redis 'modules/redis.bicep' = if (empty(existingRedisId)) {
  name: 'redis'
  scope: group
  params: {
    name: 'redis-${token}'
    location: location
    tags: tags
    sku: redisSku
    vnetEnabled: vnetEnabled
    endpointSubnetId: vnetEnabled ? network!.outputs.endpointSubnetId : ''
    dnsZoneId: vnetEnabled ? network!.outputs.redisZoneId : ''
  }
}

// In the Redis's own resource group, which need not be this one.
module redisAccess 'modules/redis-access.bicep' = {
  name: 'redis-access-${token}'
  scope: resourceGroup(
    empty(existingRedisId) ? subscription().subscriptionId : existingRedis[2],
    empty(existingRedisId) ? group.name : existingRedis[4]
  )
  params: {
    redisName: empty(existingRedisId) ? redis!.outputs.name : existingRedis[8]
    appPrincipalId: identity.outputs.principalId
    userPrincipalId: principalId
  }
}

module app 'modules/app.bicep' = {
  name: 'app'
  scope: group
  params: {
    name: 'func-${token}'
    planName: 'plan-${token}'
    location: location
    tags: union(tags, { 'azd-service-name': 'janitor' })
    identityId: identity.outputs.id
    identityClientId: identity.outputs.clientId
    blobEndpoint: storage.outputs.blobEndpoint
    packageContainer: storage.outputs.packageContainer
    connectionString: monitoring.outputs.connectionString
    subnetId: vnetEnabled ? network!.outputs.appSubnetId : ''
    settings: {
      REDIS_HOST: redisAccess.outputs.address
      REDIS_AUTH: 'entra'
      REDIS_ENTRA_CLIENT_ID: identity.outputs.clientId
      STREAM_NAME: streamName
      STREAM_CONSUMER_GROUP_NAME: groupName
      MONITORING_CONSUMER_NAME: consumerName
      MIN_IDLE_TIME_SEC: minIdleTimeSec
    }
  }
}

module alerts 'modules/alerts.bicep' = {
  name: 'alerts'
  scope: group
  params: {
    location: location
    tags: tags
    componentId: monitoring.outputs.componentId
    email: alertEmail
    isEnabled: alertsEnabled
  }
}

output AZURE_RESOURCE_GROUP string = group.name
output AZURE_FUNCTION_APP_NAME string = app.outputs.name
output REDIS_HOST string = redisAccess.outputs.address
